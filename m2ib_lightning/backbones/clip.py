"""Hugging Face CLIP (`CLIPModel`): OpenAI's and LAION's checkpoints, MetaCLIP, PubMedCLIP, PLIP, the embedded one."""

from __future__ import annotations

from typing import Any

from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import ClsImageTower, EosTextTower


class CLIPBackbone(HuggingFaceBackbone):
    """A `CLIPModel` with its processor."""

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """A vision transformer that reads CLS and a causal text transformer that reads EOS."""
        # As CLIPTextModel does: checkpoints from before its EOS was known have 2 there, and EOS is the largest id.
        largest_id = model.text_model.config.eos_token_id == 2
        return (
            ClsImageTower(model.vision_model, model.visual_projection, self.image_size),
            EosTextTower(model.text_model, model.text_projection, largest_id=largest_id),
        )
