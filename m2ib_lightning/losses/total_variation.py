"""How ragged the mask of an image is."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from m2ib_lightning.losses.base import Bottlenecked, LossTerm

SMOOTH = 0.01
"""Differences far below it count as squares: the sign of one that is rounding must not move a mask."""


def total_variation(mask: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring cells, anisotropic total variation.

    TV = (sum_ij |m[i+1, j] - m[i, j]| + |m[i, j+1] - m[i, j]|) / (number of such neighbours), meaned over channels,
    with |d| smoothed to sqrt(d^2 + SMOOTH^2) - SMOOTH. Source: Rudin, Osher and Fatemi, Physica D 1992; on masks, Fong
    and Vedaldi, ICCV 2017 (arXiv 1704.03296).

    Args:
        mask: (B, gh, gw, D).

    Returns:
        (B,) >= 0, below 1 for a mask in [0, 1]; 0 for a single cell.
    """
    neighbours = (mask[:, 1:] - mask[:, :-1], mask[:, :, 1:] - mask[:, :, :-1])
    differences = torch.cat([rearrange(difference, "b gh gw d -> b (gh gw d)") for difference in neighbours], 1)
    absolute = (differences.square() + SMOOTH**2).sqrt() - SMOOTH
    return reduce(absolute, "b n -> b", "sum") / max(1, differences.shape[1])


class TotalVariation(LossTerm):
    """`total_variation` of lambda_ over the patches of the image; 0 for a text."""

    name = "total_variation"

    def forward(self, tower: Bottlenecked) -> Tensor:
        """How ragged the mask of each pair is, (B,).

        Raises:
            ValueError: The images of the batch have different grids.
        """
        if tower.modality == "text":
            return tower.lambda_.new_zeros(len(tower.lambda_))
        if tower.grid is None:
            raise ValueError(
                "Expected images whose patches form one grid but those of this batch do not. "
                "Remedy: batch_size 1, or pictures of one shape."
            )
        gh, gw = tower.grid
        cells = rearrange(tower.lambda_[tower.content], "(b gh gw) d -> b gh gw d", gh=gh, gw=gw)
        return total_variation(cells)
