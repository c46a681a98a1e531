"""Attention rollout (Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020)."""

from __future__ import annotations

import torch
from einops import reduce
from torch import Tensor

from m2ib_lightning.methods.attention import attention_of, carried, identity, read_rows
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective


class AttentionRollout(Baseline):
    """The product over blocks of (A + I) / 2, A the mean over heads; the read-out token's row.

    It does not depend on the other modality: a text cannot change the map of its image.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
    """

    unit = "share"

    def relevance(self, objective: Objective) -> Tensor:
        """The read-out token's row of the product, (b, gh, gw) or (b, l)."""
        with torch.no_grad():
            _, calls = attention_of(objective)
        rows = identity(objective)
        for call in calls:
            flow = reduce(call.weights, "b heads q l -> b q l", "mean") @ rows
            rows = (carried(rows, flow, objective) + flow) / 2
        return objective.token_map(read_rows(rows, objective))
