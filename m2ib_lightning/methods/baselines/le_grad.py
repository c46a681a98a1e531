"""LeGrad: gradients of each block's attention (Bousselham et al., LeGrad, ICCV 2025; arXiv 2404.03214)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.transformer import TransformerTower
from m2ib_lightning.errors import UnsuitedModel
from m2ib_lightning.losses import along
from m2ib_lightning.methods.attention import AttentionRecord
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality


class LeGrad(Baseline):
    """Sum over blocks of the mean, over heads and queries, of max(0, d s_l / d A_l).

    s_l is the cosine of the other modality with the mean of all tokens behind block l, sent through the tower's last
    norm and projection; a head that pools all tokens itself is given them all.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        first_block: Blocks before this one are passed over; negative counts from the end. The released code has -2,
            the paper all.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        first_block: int = 0,
    ) -> None:
        super().__init__(backbone, modalities)
        self.first_block = first_block

    def relevance(self, objective: Objective) -> Tensor:
        """Positive gradients of attention, block by block; (b, gh, gw) or (b, l)."""
        scores, weights = block_scores(objective)
        queries = objective.hidden.valid.float()
        total = torch.zeros(objective.content.shape, device=objective.clean.device)
        for block in range(len(scores))[self.first_block :]:
            (gradient,) = torch.autograd.grad(scores[block].sum(), weights[block])
            # Padding behind a text is no query: its rows must not count in the mean.
            rows = reduce(gradient.clamp(min=0), "b heads q l -> b q l", "mean")
            total = total + einsum(rows, queries, "b q l, b q -> b l") / reduce(queries, "b q -> b 1", "sum")
        return objective.token_map(total)


def block_scores(objective: Objective) -> tuple[list[Tensor], list[Tensor]]:
    """Behind each block, s_l (b,) and the block's attention weights (b, heads, q, l), all tokens as queries.

    Raises:
        UnsuitedModel: The tower is no stack of transformer blocks that attend once each.
    """
    tower, hidden = objective.tower, objective.hidden
    if not isinstance(tower, TransformerTower):
        raise UnsuitedModel(
            f"Expected a transformer as {objective.modality} tower for LeGrad but got {type(tower).__name__}. "
            "Remedy: choose a method that does not look at attention."
        )
    mask, shown = tower.mask(hidden.valid), rearrange(hidden.valid, "b l -> b l 1")
    states, scores, weights = hidden.states, [], []
    for block in tower.blocks:
        with AttentionRecord() as record:
            states = block(states, states, mask, tower.causal)
        weights += [call.weights for call in record.calls]
        mean = reduce(states * shown, "b l d -> b d", "sum") / reduce(shown.long(), "b l 1 -> b 1", "sum")
        pooled = states if hidden.read is None else mean
        scores.append(along(tower.head(pooled, hidden.valid), objective.target))
    if len(weights) != len(scores):
        raise UnsuitedModel(
            f"Expected one attention in each of {len(scores)} blocks but saw {len(weights)}. "
            "Remedy: choose a method that does not look at attention."
        )
    return scores, weights
