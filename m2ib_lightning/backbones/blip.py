"""The image-text contrastive pair of Hugging Face BLIP (`BlipForImageTextRetrieval`); its matching head is not read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from m2ib_lightning.backbones.attention import attend_fused
from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import BertTextTower, ClsImageTower
from m2ib_lightning.backbones.transformer import PreNormBlock


class BlipBlock(PreNormBlock):
    """A block of BLIP's image tower, which makes queries, keys and values in one projection."""

    def attention(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attention of normalised states, (N, Q, D) and (N, L, D) to (N, Q, D)."""
        own = self.layer.self_attn
        mixed = attend_fused(
            states, queries, own.qkv.weight, own.qkv.bias,
            heads=own.num_heads, mask=mask, causal=causal, scale=own.scale,
        )  # fmt: skip
        return own.projection(mixed)


class BlipBackbone(HuggingFaceBackbone):
    """A `BlipForImageTextRetrieval` with its processor."""

    architectures = ("BlipForImageTextRetrieval",)

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """A vision transformer and a BERT, both read at CLS."""
        text = model.text_encoder
        limit = self.text_limit(text.config.max_position_embeddings)
        return (
            ClsImageTower(model.vision_model, model.vision_proj, self.image_size, BlipBlock),
            BertTextTower(text, text.encoder.layer, model.text_proj, limit),
        )
