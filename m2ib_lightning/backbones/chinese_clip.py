"""Hugging Face Chinese-CLIP (`ChineseCLIPModel`): CLIP's image tower with a Chinese RoBERTa."""

from __future__ import annotations

from typing import Any

from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import BertTextTower, ClsImageTower


class ChineseCLIPBackbone(HuggingFaceBackbone):
    """A `ChineseCLIPModel` with its processor."""

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """CLIP's vision transformer and a BERT that reads CLS."""
        text = model.text_model
        limit = self.text_limit(text.config.max_position_embeddings)
        return (
            ClsImageTower(model.vision_model, model.visual_projection, self.image_size),
            BertTextTower(text, text.encoder.layer, model.text_projection, limit),
        )
