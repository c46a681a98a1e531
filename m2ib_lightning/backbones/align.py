"""Hugging Face ALIGN (`AlignModel`): an EfficientNet image tower and a BERT text tower."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.convolution import ConvolutionalTower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import BertTextTower


class AlignImageTower(ConvolutionalTower):
    """The EfficientNet; layers are the blocks of its last stage, and its head averages all cells."""

    reads = "mean of all cells"

    def __init__(self, vision: Any, size: tuple[int, int], device: torch.device) -> None:
        self.vision = vision
        blocks = list(vision.encoder.blocks)
        # All blocks of a stage but its first one add their input to their output, whose shape so is the same.
        first = max(i for i, block in enumerate(blocks) if not block.projection.apply_dropout)
        super().__init__([vision.embeddings, *blocks[: first + 1]], blocks[first + 1 :], size, device)

    def head(self, maps: Tensor) -> Tensor:
        """(N, D, gh, gw) to (N, E)."""
        return rearrange(self.vision.pooler(maps), "n e 1 1 -> n e")


class AlignBackbone(HuggingFaceBackbone):
    """An `AlignModel` with its processor."""

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """An EfficientNet and a BERT that reads CLS."""
        text = model.text_model
        limit = self.text_limit(text.config.max_position_embeddings)
        return (
            AlignImageTower(model.vision_model, self.image_size, self.device),
            BertTextTower(text, text.encoder.layer, model.text_projection, limit),
        )
