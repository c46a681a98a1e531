"""The towers that several Hugging Face families share."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from m2ib_lightning.backbones.base import check_whole_patches, with_prefix
from m2ib_lightning.backbones.transformer import PostNormBlock, PreNormBlock, TransformerTower
from m2ib_lightning.types import HiddenStates, PairBatch


class ClsImageTower(TransformerTower):
    """CLIP's vision transformer, whose head reads CLS, the first token.

    Args:
        vision: A module with `embeddings`, `encoder.layers`, `post_layernorm` and, in some models, `pre_layrnorm`.
        projection: The linear layer into the shared space.
        size: (H, W) of the pixels it will be given; position embeddings are interpolated to them.
        block: The class that computes its layers.
    """

    reads = "CLS"
    prefix_tokens = 1

    def __init__(
        self, vision: Any, projection: nn.Linear, size: tuple[int, int], block: type[PreNormBlock] = PreNormBlock
    ) -> None:
        self.vision, self.projection = vision, projection
        self.norm = getattr(vision, "pre_layrnorm", nn.Identity())
        self.patch: int = vision.config.patch_size
        cells = check_whole_patches(size, self.patch)
        super().__init__([block(layer) for layer in vision.encoder.layers], projection.in_features, 1 + cells)

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """CLS and the patches, row by row."""
        states = self.norm(embed_patches(self.vision, batch.pixel_values))
        return with_prefix(states, 1, True)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D) to (N, E)."""
        return self.projection(self.vision.post_layernorm(states))


class EosTextTower(TransformerTower):
    """CLIP's causal text transformer, whose head reads EOS.

    Texts run at the length of the longest of the batch: what stands behind EOS is never looked at.

    Args:
        text: A module with `embeddings`, `encoder.layers` and `final_layer_norm`.
        projection: The linear layer into the shared space.
        largest_id: Whether EOS is the largest id of a text, as in checkpoints from before their EOS was known.
    """

    reads = "EOS"
    prefix_tokens = 1

    def __init__(self, text: Any, projection: nn.Linear, *, largest_id: bool) -> None:
        self.text, self.projection, self.largest_id = text, projection, largest_id
        length = text.config.max_position_embeddings
        blocks = [PreNormBlock(layer) for layer in text.encoder.layers]
        super().__init__(blocks, projection.in_features, length, causal=True)

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Token and position embeddings, BOS first."""
        ids, valid = batch.input_ids, batch.attention_mask
        read = ids.argmax(-1) if self.largest_id else (ids == self.text.config.eos_token_id).int().argmax(-1)
        special = ~valid
        special[:, 0] = True
        special.scatter_(1, rearrange(read, "b -> b 1"), True)
        return HiddenStates(self.text.embeddings(input_ids=ids), valid, special, read)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D) to (N, E)."""
        return self.projection(self.text.final_layer_norm(states))


class BertTextTower(TransformerTower):
    """A text transformer of BERT's kind, whose head reads CLS, the first token; padding is hidden from all tokens.

    Args:
        bert: A module with `embeddings` and `config`.
        layers: The blocks of its stack, in their order.
        projection: The layer from CLS into the shared space.
        length: The largest number of tokens that it reads.
    """

    reads = "CLS"
    prefix_tokens = 1

    def __init__(self, bert: Any, layers: nn.ModuleList, projection: nn.Module, length: int) -> None:
        self.bert, self.projection = bert, projection
        super().__init__([PostNormBlock(layer) for layer in layers], bert.config.hidden_size, length, masked=True)

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Word, type and position embeddings, CLS first."""
        ids = batch.input_ids
        read = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        return HiddenStates(self.bert.embeddings(input_ids=ids), batch.attention_mask, no_text(batch), read)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D) to (N, E)."""
        return self.projection(states)


def embed_patches(vision: Any, pixels: Tensor) -> Tensor:
    """Patch and position embeddings by a model's own code, its positions interpolated for sizes that are not its own.

    Args:
        vision: A module with `embeddings` and `config.image_size`.
        pixels: (B, 3, H, W).

    Returns:
        (B, L, D).
    """
    native = (vision.config.image_size, vision.config.image_size)
    return vision.embeddings(pixels, interpolate_pos_encoding=tuple(pixels.shape[-2:]) != native)


def no_text(batch: PairBatch) -> Tensor:
    """(B, L) bool, the tokens that stand for no character of their text: special tokens and padding."""
    special = torch.ones(batch.input_ids.shape, dtype=torch.bool)
    for row, spans in zip(special, batch.spans, strict=True):
        row[: len(spans)] = torch.tensor([span == (0, 0) for span in spans])
    return special.to(batch.input_ids.device)
