"""What baselines have in common: each gives a tower's map from its objective alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.methods.base import AttributionMethod, as_attributions
from m2ib_lightning.methods.objective import Objective, gradients, objectives
from m2ib_lightning.types import PairBatch


class Baseline(AttributionMethod):
    """A method that explains one tower after the other, whole batches at a time.

    A further one implements `relevance`, in one file, and names its arguments in `options`.
    """

    @abstractmethod
    def relevance(self, objective: Objective) -> Tensor:
        """The map of a tower: (B, gh, gw) of an image, (B, L) of a text. Gradients are on when this is called."""

    def attribute(self, batch: PairBatch) -> list[Attribution]:
        """Explain a batch of pairs."""
        with gradients():
            both = objectives(self.prepare(), batch)
            maps = {m: self.relevance(both[m]).detach() for m in self.modalities}
        return as_attributions(
            batch,
            image=list(maps["image"]) if "image" in maps else None,
            text=list(maps["text"]) if "text" in maps else None,
            special=both["text"].hidden.special,
            score=both["text"].clean,
            unit=self.unit,
            settings=self.settings,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The method's own arguments, as they go into each result."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """What a result is made with."""
        return super().settings | self.options
