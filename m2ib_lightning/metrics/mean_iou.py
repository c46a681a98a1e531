"""Overlap of the map with the truth at several thresholds (Boecking et al., BioViL, ECCV 2022, MS-CXR protocol)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric, check_map, left_out

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def mean_iou(saliency: Tensor, truth: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Mean over t of |{E > t} and M| / |{E > t} or M|; higher is better.

    Args:
        saliency: E in [0, 1], (..., H, W).
        truth: M, (..., H, W) bool.
        thresholds: t, where a map is cut, each in [0, 1).

    Returns:
        (...) in 0..1, nan where there is no truth.

    Raises:
        ValueError: The map leaves [0, 1].

    >>> mean_iou(torch.tensor([[1.0, 0.25]]), torch.tensor([[True, False]]))  # 1/2 at .1 and .2, 1 at .3, .4 and .5
    tensor(0.8000)
    """
    check_map(saliency, truth)
    if saliency.amin() < 0 or saliency.amax() > 1:
        raise ValueError("Expected a map in [0, 1]. Remedy: divide it by its largest value, negative ones at 0.")
    above = rearrange(saliency, "... -> ... 1") > torch.tensor(thresholds, device=saliency.device)
    inside = rearrange(truth, "... -> ... 1")
    overlap = (above & inside).sum((-3, -2)) / (above | inside).sum((-3, -2)).clamp(min=1)
    return left_out(overlap.mean(-1), ~truth.flatten(-2).any(-1))


class MeanIoU(PairMetric):
    """Mean overlap of the image map with the truth over thresholds .1 to .5 of its largest value; higher is better."""

    function = mean_iou
    takes = ("heatmap", "truth")
