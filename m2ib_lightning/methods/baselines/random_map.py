"""Random values: what a metric gives for nothing."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality


class RandomMap(Baseline):
    """Draws every value from a uniform distribution on 0..1, by the seed and the pair's own pixels and tokens.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        seed: The values follow from it and from the pair; another one gives other maps.
    """

    unit = "1"
    control = True

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities)
        self.seed = seed

    def relevance(self, objective: Objective) -> Tensor:
        """Uniform values, (b, gh, gw) or (b, l)."""
        size = objective.grid or (objective.tower.length,)
        batch = objective.batch
        rows = []
        for pixels, ids, valid in zip(batch.pixel_values, batch.input_ids, batch.attention_mask, strict=True):
            pair = zlib.crc32(pixels.cpu().numpy().tobytes() + ids[valid].cpu().numpy().tobytes())
            values = np.random.default_rng((self.seed, pair)).random(size, dtype=np.float32)
            rows.append(torch.from_numpy(values))
        maps = torch.stack(rows)
        return (maps if objective.grid else maps[:, : batch.input_ids.shape[1]]).to(objective.clean.device)
