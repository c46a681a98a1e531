"""Saliency: the gradient of the similarity (Simonyan, Vedaldi, Zisserman, 2013)."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective


class Saliency(Baseline):
    """Sums |d cos / d x| over the channels and pixels of a patch, and over the channels of a token's embedding.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
    """

    unit = "cos"

    def relevance(self, objective: Objective) -> Tensor:
        """Absolute gradients, (b, gh, gw) or (b, l)."""
        return objective.input_map(objective.gradient(rearrange(objective.inputs, "b ... -> 1 b ...")).abs()[0])
