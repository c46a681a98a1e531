"""Bi-modal relevance through attention (Chefer, Gur, Wolf, Generic Attention-Model Explainability, ICCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods.attention import attention_of, read_rows
from m2ib_lightning.methods.base import MODALITIES, check_at_least
from m2ib_lightning.methods.baseline import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import Modality


class Chefer(Baseline):
    """R = I, then R + mean over heads of max(0, A * d(scale cos) / dA) R from block to block; the read-out token's row.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        first_block: Blocks before this one are passed over. The paper takes all; its CLIP notebook the last one only,
            which is -1 here.
        scale: What the cosine is multiplied by, as CLIP's logits are; it weighs long paths against short ones.
        seed: Not used.

    Raises:
        ValueError: `scale` is negative.
    """

    unit = "1"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        first_block: int = 0,
        scale: float = 100.0,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities, seed)
        check_at_least("scale", scale, 0)
        self.first_block, self.scale = first_block, scale

    @property
    def options(self) -> dict[str, Any]:
        """The method's own arguments."""
        return {"first_block": self.first_block, "scale": self.scale}

    def relevance(self, objective: Objective) -> Tensor:
        """The read-out token's row of R."""
        score, calls = attention_of(objective)
        calls = calls[self.first_block :]
        gradients = torch.autograd.grad(self.scale * score.sum(), [call.weights for call in calls])
        batch, length = objective.content.shape
        rows = torch.eye(length, device=score.device).expand(batch, -1, -1)
        for call, gradient in zip(calls, gradients, strict=True):
            flow = (call.weights.detach() * gradient).clamp(min=0).mean(1) @ rows
            # The last block may hold one query, the token that the head reads.
            rows = (read_rows(rows, objective)[:, None] if flow.shape[1] == 1 else rows) + flow
        return objective.token_map(read_rows(rows, objective))
