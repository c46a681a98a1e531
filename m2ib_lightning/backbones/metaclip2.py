"""Hugging Face MetaCLIP 2 (`MetaClip2Model`): CLIP in 300 languages, with XLM-R's SentencePiece tokens."""

from __future__ import annotations

from typing import Any

from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import ClsImageTower, EosTextTower


class MetaCLIP2Backbone(HuggingFaceBackbone):
    """A `MetaClip2Model` with its processor. Unlike in CLIP, EOS may truly be 2 (XLM-R's `</s>`)."""

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """A vision transformer that reads CLS and a causal text transformer that reads EOS."""
        return (
            ClsImageTower(model.vision_model, model.visual_projection, self.image_size),
            EosTextTower(model.text_model, model.text_projection, largest_id=False),
        )
