"""Does the highest value of the map lie on the truth? (Zhang et al., IJCV 2018; TorchRay.)"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.metrics.base import PairMetric, check_map, left_out


def pointing_game(saliency: Tensor, truth: Tensor, tolerance: int = 0) -> Tensor:
    """1 where arg max E lies in M, else 0; of several equal maxima, the share that does. Higher is better.

    So a constant map scores what chance would: the share of the truth.

    Args:
        saliency: E, (..., H, W).
        truth: M, (..., H, W) bool.
        tolerance: Pixels that the maximum may lie beside the truth, by Euclidean distance as TorchRay's disc.

    Returns:
        (...) in 0..1, nan where there is no truth.

    >>> pointing_game(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[False, True], [False, False]]))
    tensor(1.)
    """
    check_map(saliency, truth)
    near = _grown(truth, tolerance) if tolerance else truth
    highest = saliency == saliency.amax((-2, -1), keepdim=True)
    hits = (highest & near).sum((-2, -1)) / highest.sum((-2, -1))
    return left_out(hits, ~truth.flatten(-2).any(-1))


def _grown(truth: Tensor, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, device=truth.device)
    disc = rearrange(offsets, "h -> h 1") ** 2 + offsets**2 <= radius**2
    flat = rearrange(truth.float(), "... h w -> (...) 1 h w")
    grown = F.conv2d(flat, rearrange(disc.float(), "h w -> 1 1 h w"), padding=radius) > 0.5
    return grown.reshape(truth.shape)


class PointingGame(PairMetric):
    """Share of pairs whose highest pixel lies on the truth; higher is better.

    Args:
        tolerance: Pixels that it may lie beside it.
    """

    function = pointing_game
    takes = ("saliency", "truth")

    def __init__(self, tolerance: int = 0) -> None:
        super().__init__()
        self.tolerance = tolerance

    def values_of(self, *inputs: Tensor) -> Tensor:
        """The function, with the tolerance."""
        saliency, truth = inputs
        return pointing_game(saliency, truth, self.tolerance)
