"""The middle of the picture, whatever is in it: what a metric gives to a bias of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality


class CentrePrior(Baseline):
    """A Gaussian around the middle, exp(-d^2 / 2 s^2), d the distance in sides of the picture (lengths of the text).

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        spread: s, as a share of the side of the picture, at least 0.01.

    Raises:
        ValueError: `spread` is too small.
    """

    unit = "1"
    control = True

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        spread: float = 0.25,
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("spread", spread, 0.01)
        self.spread = spread

    def relevance(self, objective: Objective) -> Tensor:
        """The Gaussian over the grid or over the tokens, the same for every picture; (b, gh, gw) or (b, l)."""
        valid = objective.hidden.valid
        if objective.grid:
            rows, columns = (self._bump((torch.arange(n, device=valid.device) + 0.5) / n) for n in objective.grid)
            bump = rearrange(rows, "gh -> gh 1") * columns
            return repeat(bump, "gh gw -> b gh gw", b=len(valid))
        lengths = reduce(valid.long(), "b l -> b 1", "sum")
        places = (torch.arange(valid.shape[1], device=valid.device) + 0.5) / lengths
        return self._bump(places) * valid

    def _bump(self, places: Tensor) -> Tensor:
        """The Gaussian at places in 0..1."""
        return (-((places - 0.5) ** 2) / (2 * self.spread**2)).exp()
