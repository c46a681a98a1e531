"""The same value everywhere: what a metric gives to a map that says nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective


class UniformMap(Baseline):
    """One for every patch and every token, so that an input multiplied by its map stays as it is.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
    """

    unit = "1"
    control = True

    def relevance(self, objective: Objective) -> Tensor:
        """Ones, (b, gh, gw) or (b, l)."""
        return objective.token_map(torch.ones_like(objective.content, dtype=torch.float32))
