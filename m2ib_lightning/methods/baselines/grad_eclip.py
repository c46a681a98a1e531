"""Grad-ECLIP (Zhao, Wang, Jin, Chan, Gradient-based Visual Explanation for CLIP, ICML 2024; arXiv 2502.18816)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.attention import Attended, attention_of, read_rows
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality


class GradECLIP(Baseline):
    """Sum over blocks of max(0, s_i sum over channels of g * v_i).

    g is the gradient of the cosine with respect to the attention's output at the read-out token, v_i a token's value,
    and s_i the cosine of the read-out query and the token's key, brought to 0..1 over the content tokens. The released
    code computes these blocks with a single head; this is the model's own attention.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        image_blocks: How many of the last blocks take part, at least 1.
        text_blocks: The same of the text; the released code has 8 of 12. No more take part than there are.

    Raises:
        ValueError: A number is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        image_blocks: int = 1,
        text_blocks: int = 8,
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("image_blocks", image_blocks, 1)
        check_at_least("text_blocks", text_blocks, 1)
        self.blocks: dict[Modality, int] = {"image": image_blocks, "text": text_blocks}

    def relevance(self, objective: Objective) -> Tensor:
        """Gradient times value times loosened attention, (b, gh, gw) or (b, l)."""
        score, calls = attention_of(objective)
        calls = calls[-self.blocks[objective.modality] :]
        gradients = torch.autograd.grad(score.sum(), [call.output for call in calls])
        total = torch.zeros(objective.content.shape, device=score.device)
        for call, gradient in zip(calls, gradients, strict=True):
            along = einsum(read_rows(gradient, objective), call.value, "b heads d, b heads l d -> b l")
            total = total + (along * loosened(call, objective)).clamp(min=0)
        return objective.token_map(total * objective.content)


def loosened(call: Attended, objective: Objective) -> Tensor:
    """(b, l), the cosines of the read-out query and every key; 0 for the lowest content token, 1 for the highest."""
    query = rearrange(read_rows(call.query, objective), "b heads d -> b 1 (heads d)")
    cosine = F.cosine_similarity(query, rearrange(call.key, "b heads l d -> b l (heads d)"), dim=-1)
    content = objective.content
    low = cosine.masked_fill(~content, torch.inf).amin(1, keepdim=True)
    high = cosine.masked_fill(~content, -torch.inf).amax(1, keepdim=True)
    # A text of one token has no range: its token keeps 1.
    return torch.where(high > low, (cosine - low) / (high - low).clamp(min=1e-12), torch.ones_like(cosine))
