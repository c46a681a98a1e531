"""SmoothGrad: saliency averaged over noisy inputs (Smilkov et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.bottleneck import NoiseBank
from m2ib_lightning.methods.base import MODALITIES, check_at_least
from m2ib_lightning.methods.baseline import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import Modality


class SmoothGrad(Baseline):
    """Mean of |d cos / d x| at x + s * (max x - min x) * eps, with eps from N(0, 1).

    The noise comes from a bank that all pairs share, so that a map does not depend on the batch.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        samples: Of the noise, >= 1.
        spread: s, >= 0.
        seed: Of the noise.

    Raises:
        ValueError: A number is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        samples: int = 25,
        spread: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities, seed)
        check_at_least("samples", samples, 1)
        check_at_least("spread", spread, 0)
        self.samples, self.spread = samples, spread
        self.noise = NoiseBank(seed, 1)

    @property
    def options(self) -> dict[str, Any]:
        """The method's own arguments."""
        return {"samples": self.samples, "spread": self.spread}

    def noise_of(self, objective: Objective, sample: int) -> Tensor:
        """Standard normal noise of a sample that broadcasts with the inputs."""
        shape, device = objective.inputs.shape[1:], objective.inputs.device
        if objective.grid:
            return self.noise(sample, "image", shape[0] * shape[1], shape[2], device).reshape(1, *shape)
        return self.noise(sample, "text", objective.tower.length, shape[1], device)[:, : shape[0]]

    def relevance(self, objective: Objective) -> Tensor:
        """Mean absolute gradients."""
        inputs = objective.inputs
        shown = torch.ones_like(inputs, dtype=torch.bool) if objective.grid else objective.hidden.valid[..., None]
        high = inputs.masked_fill(~shown, -torch.inf).flatten(1).amax(1)
        low = inputs.masked_fill(~shown, torch.inf).flatten(1).amin(1)
        width = self.spread * (high - low).view(-1, *[1] * (inputs.ndim - 1))
        total = torch.zeros_like(inputs)
        for sample in range(self.samples):
            noisy = inputs + width * self.noise_of(objective, sample)
            total += objective.gradient(noisy[None])[0].abs()
        return objective.input_map(total / self.samples)
