"""Integrated gradients of the input (Sundararajan, Taly, Yan, ICML 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods.base import MODALITIES, check_at_least
from m2ib_lightning.methods.baseline import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import Modality

SEQUENCES = 64
"""Inputs whose gradients are computed at once, where a batch is not larger."""


class IntegratedGradients(Baseline):
    """Integrates the gradient from a baseline to the input; the values of a pair sum to its fall in cosine.

    The baseline is the mean image, and a text whose content tokens are zero; BOS, EOS and positions stay.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        steps: Points of the Gauss-Legendre quadrature, >= 1.
        seed: Not used.

    Raises:
        ValueError: `steps` is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        steps: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities, seed)
        check_at_least("steps", steps, 1)
        self.steps = steps

    @property
    def options(self) -> dict[str, Any]:
        """The method's own arguments."""
        return {"steps": self.steps}

    def relevance(self, objective: Objective) -> Tensor:
        """Integrated gradients, summed over channels and pixels."""
        start = start_of(objective)
        way = objective.inputs - start
        total = torch.zeros_like(way)
        points, weights = (torch.from_numpy(x).to(way) for x in np.polynomial.legendre.leggauss(self.steps))
        at_once = max(1, SEQUENCES // len(way))
        # The quadrature is over -1..1, the way over 0..1.
        for some, weight in zip(points.split(at_once), weights.split(at_once), strict=True):
            inputs = start + einsum((1 + some) / 2, way, "k, b ... -> k b ...")
            total += einsum(weight / 2, objective.gradient(inputs), "k, k b ... -> b ...")
        return objective.input_map(total * way)


def start_of(objective: Objective) -> Tensor:
    """The input with nothing in it: zeros for pixels and content tokens."""
    inputs = objective.inputs
    return torch.zeros_like(inputs) if objective.grid else inputs.masked_fill(objective.content[..., None], 0)
