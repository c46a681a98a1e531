"""Grad-CAM on the hidden states of a transformer block (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor

from m2ib_lightning.methods.baselines.base import LayerBaseline
from m2ib_lightning.methods.objective import Objective


class GradCAM(LayerBaseline):
    """Weighs the channels of a block by their mean gradient: max(0, sum over d of mean_j(d cos / d h_jd) h_id).

    i and j run over the content tokens. The last block but one by default: behind the last, patches have no gradient.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        image_layer: Block whose output is explained, 0-based, or "embeddings".
        text_layer: The block of the text's tower, likewise.
    """

    unit = "1"

    def default_layer(self, depth: int) -> int:
        """The last block but one."""
        return depth - 2

    def relevance(self, objective: Objective) -> Tensor:
        """The weighted sum of channels, negative values at 0; (b, gh, gw) or (b, l)."""
        layer = self.layer_of(objective.modality)
        hidden = objective.states(layer)
        states = hidden.states.clone().requires_grad_()
        score = objective.of_states(rearrange(states, "b l d -> 1 b l d"), hidden, layer)
        (gradient,) = torch.autograd.grad(score.sum(), states)
        content = objective.content.to(gradient.dtype)
        tokens = reduce(content, "b l -> b 1", "sum")
        weight = einsum(gradient, content, "b l d, b l -> b d") / tokens
        return objective.token_map((einsum(weight, states, "b d, b l d -> b l") * content).clamp(min=0))
