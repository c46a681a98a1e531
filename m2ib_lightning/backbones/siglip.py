"""Hugging Face SigLIP (`SiglipModel`): SigLIP, and SigLIP 2 at fixed resolutions, whose checkpoints are this class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.backbones.base import Tower, check_whole_patches, with_prefix
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.towers import embed_patches, no_text
from m2ib_lightning.backbones.transformer import PreNormBlock, TransformerTower
from m2ib_lightning.types import HiddenStates, PairBatch


class SiglipImageTower(TransformerTower):
    """The vision transformer; its head attends to all patches with a learned query, so no token is read alone."""

    reads = "attention over all patches"

    def __init__(self, vision: Any, size: tuple[int, int]) -> None:
        check_head(vision)
        self.vision = vision
        self.patch: int = vision.config.patch_size
        blocks = [PreNormBlock(layer) for layer in vision.encoder.layers]
        super().__init__(blocks, vision.config.hidden_size, check_whole_patches(size, self.patch))

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """The patches, row by row."""
        states = embed_patches(self.vision, batch.pixel_values)
        return with_prefix(states, 0, False)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, L, D) to (N, E)."""
        return self.vision.head(self.vision.post_layernorm(states))


class SiglipTextTower(TransformerTower):
    """The text transformer; all tokens look at all others, padding included, and its head reads the last one.

    It was trained on texts padded to its full length, with the padding attended to: padding tokens are valid here, and
    special. The last token mostly is one of them.
    """

    reads = "last token"
    reads_padding = True

    def __init__(self, text: Any) -> None:
        self.text = text
        blocks = [PreNormBlock(layer) for layer in text.encoder.layers]
        super().__init__(blocks, text.config.hidden_size, text.config.max_position_embeddings)

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Token and position embeddings."""
        ids = batch.input_ids
        read = torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)
        return HiddenStates(self.text.embeddings(input_ids=ids), batch.attention_mask, no_text(batch), read)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D) to (N, E)."""
        return self.text.head(self.text.final_layer_norm(states))


class SiglipBackbone(HuggingFaceBackbone):
    """A `SiglipModel` with its processor."""

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """Two transformers that are not causal."""
        return SiglipImageTower(model.vision_model, self.image_size), SiglipTextTower(model.text_model)


def check_head(vision: Any) -> None:
    """Refuse a vision model without its pooling head.

    Raises:
        ValueError: It has none.
    """
    if not vision.use_head:
        raise ValueError(
            "Expected a SigLIP with a pooling head but its configuration says `vision_use_head: false`. "
            "Remedy: use a checkpoint of the whole model."
        )
