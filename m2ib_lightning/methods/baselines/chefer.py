"""Bi-modal relevance through attention (Chefer, Gur, Wolf, Generic Attention-Model Explainability, ICCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.attention import attention_of, carried, identity, read_rows
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality


class Chefer(Baseline):
    """R = I, then R + mean over heads of max(0, A * d(scale cos) / dA) R from block to block; the read-out token's row.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        first_block: Blocks before this one are passed over. The paper takes all; its CLIP notebook the last one only,
            which is -1 here.
        scale: What the cosine is multiplied by, as CLIP's logits are; it weighs long paths against short ones.

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
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("scale", scale, 0)
        self.first_block, self.scale = first_block, scale

    def relevance(self, objective: Objective) -> Tensor:
        """The read-out token's row of R, (b, gh, gw) or (b, l)."""
        score, calls = attention_of(objective)
        calls = calls[self.first_block :]
        gradients = torch.autograd.grad(self.scale * score.sum(), [call.weights for call in calls])
        rows = identity(objective)
        for call, gradient in zip(calls, gradients, strict=True):
            positive = (call.weights.detach() * gradient).clamp(min=0)
            flow = reduce(positive, "b heads q l -> b q l", "mean") @ rows
            rows = carried(rows, flow, objective) + flow
        return objective.token_map(read_rows(rows, objective))
