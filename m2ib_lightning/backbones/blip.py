"""The image-text contrastive pair of Hugging Face BLIP (`BlipForImageTextRetrieval`); its matching head is not read."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import BertTextTower, ClsImageTower
from m2ib_lightning.backbones.transformer import PreNormBlock, attend


class BlipBlock(PreNormBlock):
    """A block of BLIP's image tower, which makes queries, keys and values in one projection."""

    def attention(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attention of normalised states, (N, Q, D) and (N, L, D) to (N, Q, D)."""
        own, width = self.layer.self_attn, states.shape[-1]
        weight, bias = own.qkv.weight, own.qkv.bias
        q = F.linear(queries, weight[:width], bias[:width])
        k, v = F.linear(states, weight[width:], bias[width:]).chunk(2, -1)
        return own.projection(attend(q, k, v, heads=own.num_heads, mask=mask, causal=causal, scale=own.scale))


class BlipBackbone(HuggingFaceBackbone):
    """A `BlipForImageTextRetrieval` with its processor."""

    architecture = "BlipForImageTextRetrieval"

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """A vision transformer and a BERT, both read at CLS."""
        text = model.text_encoder
        limit = self.text_limit(text.config.max_position_embeddings)
        return (
            ClsImageTower(model.vision_model, model.vision_proj, self.image_size, BlipBlock),
            BertTextTower(text, text.encoder.layer, model.text_proj, limit),
        )
