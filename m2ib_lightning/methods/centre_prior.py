"""The middle of the picture, whatever is in it: what a metric gives to a bias of the data."""

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


class CentrePrior(Baseline):
    """A Gaussian around the middle, exp(-d^2 / 2 s^2), d the distance in sides of the picture (lengths of the text).

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        spread: s.
        seed: Not used.

    Raises:
        ValueError: `spread` is too small.
    """

    unit = "1"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        spread: float = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities, seed)
        check_at_least("spread", spread, 0.01)
        self.spread = spread

    @property
    def options(self) -> dict[str, Any]:
        """The method's own arguments."""
        return {"spread": self.spread}

    def relevance(self, objective: Objective) -> Tensor:
        """The Gaussian."""
        valid = objective.hidden.valid
        if objective.grid:
            rows, columns = (self._bump((torch.arange(n, device=valid.device) + 0.5) / n) for n in objective.grid)
            return (rows[:, None] * columns).expand(len(valid), -1, -1)
        places = (torch.arange(valid.shape[1], device=valid.device) + 0.5) / valid.sum(1, keepdim=True)
        return self._bump(places) * valid

    def _bump(self, places: Tensor) -> Tensor:
        return (-((places - 0.5) ** 2) / (2 * self.spread**2)).exp()
