"""Occlusion: the fall of the similarity when a window is hidden (Zeiler and Fergus, ECCV 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods.base import MODALITIES, check_at_least
from m2ib_lightning.methods.baseline import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import Modality


class Occlusion(Baseline):
    """Hides each window of patches (each token) and gives every patch the mean fall of the windows that cover it.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        window: Side of the window in patches, >= 1.
        seed: Not used.

    Raises:
        ValueError: `window` is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        window: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities, seed)
        check_at_least("window", window, 1)
        self.window = window

    @property
    def options(self) -> dict[str, Any]:
        """The method's own arguments."""
        return {"window": self.window}

    def relevance(self, objective: Objective) -> Tensor:
        """Mean falls."""
        if not objective.grid:
            hidden = torch.eye(objective.inputs.shape[1], device=objective.inputs.device)
            return (objective.clean - objective.masked(1 - hidden[:, None])).T * objective.content
        hidden = windows(objective.grid, self.window).to(objective.inputs.device)
        falls = objective.clean - objective.masked(1 - hidden[:, None])
        return torch.einsum("kb,khw->bhw", falls, hidden) / hidden.sum(0)


def windows(grid: tuple[int, int], side: int) -> Tensor:
    """(K, gh, gw), 1 inside each place of a square window that lies within the grid."""
    height, width = (min(side, n) for n in grid)
    places = [(r, c) for r in range(grid[0] - height + 1) for c in range(grid[1] - width + 1)]
    masks = torch.zeros(len(places), *grid)
    for mask, (row, column) in zip(masks, places, strict=True):
        mask[row : row + height, column : column + width] = 1
    return masks
