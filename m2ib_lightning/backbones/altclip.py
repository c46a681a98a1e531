"""Hugging Face AltCLIP (`AltCLIPModel`): CLIP's image tower with an XLM-R text tower."""

from __future__ import annotations

from typing import Any

from torch import nn

from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import BertTextTower, ClsImageTower


class AltCLIPBackbone(HuggingFaceBackbone):
    """An `AltCLIPModel` with its processor."""

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """CLIP's vision transformer and a RoBERTa whose CLS is normalised and projected twice."""
        text = model.text_model
        # RoBERTa counts positions from behind its padding index.
        positions = text.config.max_position_embeddings - text.config.pad_token_id - 1
        head = nn.Sequential(text.pre_LN, text.transformation, model.text_projection)
        return (
            ClsImageTower(model.vision_model, model.visual_projection, self.image_size),
            BertTextTower(text.roberta, text.roberta.encoder.layers, head, self.text_limit(positions)),
        )
