"""SmoothGrad: saliency averaged over noisy inputs (Smilkov et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.bottleneck import NoiseBank
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality


class SmoothGrad(Baseline):
    """Mean of |d cos / d x| at x + s * (max x - min x) * eps, eps standard normal.

    The noise comes from a bank that all pairs share, so that a map does not depend on the batch.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        samples: How many noisy inputs the mean is over, at least 1.
        spread: s, at least 0.
        seed: The noise follows from it; another one gives other noise.

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
        super().__init__(backbone, modalities)
        check_at_least("samples", samples, 1)
        check_at_least("spread", spread, 0)
        self.samples, self.spread = samples, spread
        self.noise = NoiseBank(seed, 1)

    def noise_of(self, objective: Objective, sample: int) -> Tensor:
        """Standard normal noise of a sample that broadcasts with the inputs: (1, c, h, w) or (1, l, d)."""
        shape, device = objective.inputs.shape[1:], objective.inputs.device
        if objective.grid:
            bank = self.noise(sample, "image", shape[0] * shape[1], shape[2], device)
            return rearrange(bank, "1 (c h) w -> 1 c h w", c=shape[0])
        return self.noise(sample, "text", objective.tower.length, shape[1], device)[:, : shape[0]]

    def relevance(self, objective: Objective) -> Tensor:
        """Mean absolute gradients, (b, gh, gw) or (b, l)."""
        inputs = objective.inputs
        width = self.spread * _range(objective)
        total = torch.zeros_like(inputs)
        for sample in range(self.samples):
            noisy = inputs + width * self.noise_of(objective, sample)
            total += objective.gradient(rearrange(noisy, "b ... -> 1 b ...")).abs()[0]
        return objective.input_map(total / self.samples)


def _range(objective: Objective) -> Tensor:
    """Max x - min x of each input, padding left out; broadcasts with the inputs."""
    inputs = objective.inputs
    shown = rearrange(objective.hidden.valid, "b l -> b l 1")
    shown = torch.ones_like(inputs, dtype=torch.bool) if objective.grid else shown
    axes = tuple(range(1, inputs.ndim))
    high = inputs.masked_fill(~shown, -torch.inf).amax(axes, keepdim=True)
    return high - inputs.masked_fill(~shown, torch.inf).amin(axes, keepdim=True)
