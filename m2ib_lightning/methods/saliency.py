"""Saliency: the gradient of the similarity (Simonyan, Vedaldi, Zisserman, 2013), by Captum."""

from __future__ import annotations

from torch import Tensor

from m2ib_lightning.methods.baseline import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.methods.with_captum import captum_method


class Saliency(Baseline):
    """Sums |d cos / d x| over the channels and pixels of a patch, and over the channels of a token's embedding.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        seed: Not used.
    """

    unit = "cos"

    def relevance(self, objective: Objective) -> Tensor:
        """Absolute gradients."""
        inputs = objective.inputs.clone().requires_grad_()
        return objective.input_map(captum_method("Saliency")(objective.by_captum).attribute(inputs, abs=True))
