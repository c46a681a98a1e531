"""Integrated gradients of the input (Sundararajan, Taly, Yan, ICML 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality

AT_ONCE = 64
"""Inputs whose gradients are computed at once."""


class IntegratedGradients(Baseline):
    """Integrates the gradient from a start to the input; the values of a pair sum to its fall in cosine.

    (x - x') * sum over i of w_i d cos / d x at x' + t_i (x - x'), t_i and w_i of the Gauss-Legendre quadrature on 0..1.
    The start x' is the mean image, and a text whose content tokens are zero; BOS, EOS and positions stay.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        steps: Points of the quadrature, at least 1.

    Raises:
        ValueError: `steps` is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        steps: int = 50,
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("steps", steps, 1)
        self.steps = steps

    def relevance(self, objective: Objective) -> Tensor:
        """Integrated gradients, summed over channels and pixels; (b, gh, gw) or (b, l)."""
        start = objective.emptied()
        change = objective.inputs - start
        places, weights = quadrature(self.steps)
        at_once = max(1, AT_ONCE // len(change))
        total = torch.zeros_like(change)
        for some, weight in zip(places.split(at_once), weights.split(at_once), strict=True):
            gradient = objective.gradient(start + einsum(some.to(change), change, "k, ... -> k ..."))
            total += einsum(gradient, weight.to(gradient), "k b ..., k -> b ...")
        return objective.input_map(change * total)


def quadrature(steps: int) -> tuple[Tensor, Tensor]:
    """Places in 0..1 and their weights, which sum to 1: Gauss-Legendre, (steps,) each."""
    places, weights = torch.tensor(np.array(np.polynomial.legendre.leggauss(steps)), dtype=torch.float32) / 2
    return places + 0.5, weights
