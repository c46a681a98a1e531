"""Occlusion: the fall of the similarity when a window is hidden (Zeiler and Fergus, ECCV 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality


class Occlusion(Baseline):
    """Hides each window of patches (each token) and gives every patch the mean fall of the windows that cover it.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        window: Side of the window in patches, at least 1.

    Raises:
        ValueError: `window` is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        window: int = 2,
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("window", window, 1)
        self.window = window

    def relevance(self, objective: Objective) -> Tensor:
        """Mean falls, (b, gh, gw) or (b, l)."""
        if not objective.grid:
            hidden = torch.eye(objective.inputs.shape[1], device=objective.inputs.device)
            falls = objective.clean - objective.masked(1 - rearrange(hidden, "k l -> k 1 l"))
            return rearrange(falls, "l b -> b l") * objective.content
        hidden = windows(objective.grid, self.window).to(objective.inputs.device)
        falls = objective.clean - objective.masked(1 - rearrange(hidden, "k gh gw -> k 1 gh gw"))
        return einsum(falls, hidden, "k b, k gh gw -> b gh gw") / reduce(hidden, "k gh gw -> gh gw", "sum")


def windows(grid: tuple[int, int], side: int) -> Tensor:
    """(k, gh, gw), 1 inside each place of a square window that lies within the grid."""
    height, width = (min(side, n) for n in grid)
    places = [(r, c) for r in range(grid[0] - height + 1) for c in range(grid[1] - width + 1)]
    masks = torch.zeros(len(places), *grid)
    for mask, (row, column) in zip(masks, places, strict=True):
        mask[row : row + height, column : column + width] = 1
    return masks
