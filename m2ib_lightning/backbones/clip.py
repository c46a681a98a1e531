"""Hugging Face CLIP (`CLIPModel`): OpenAI's and LAION's checkpoints, MetaCLIP, PubMedCLIP, PLIP, the embedded one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from m2ib_lightning.backbones.base import Backbone, Tower, check_texts
from m2ib_lightning.backbones.view import trim, view_of, within
from m2ib_lightning.types import Box, HiddenStates, Layer, PairBatch


def attention(layer: Any, queries: Tensor, states: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Multi-head attention of an encoder layer, by its own weights.

    Args:
        layer: With `self_attn.{q,k,v,out}_proj`, `num_heads` and `scale`.
        queries: (N, Q, D), normalised.
        states: (N, L, D), normalised; keys and values are made of them.
        mask: Broadcasts to (N, 1, Q, L), true where a query may look.
        causal: Whether query i looks at keys 0..i only.

    Returns:
        (N, Q, D).
    """
    own = layer.self_attn

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (own.num_heads, own.head_dim)).transpose(1, 2)

    q, k, v = split(own.q_proj(queries)), split(own.k_proj(states)), split(own.v_proj(states))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=own.scale)
    return own.out_proj(mixed.transpose(1, 2).flatten(2))


def run_layer(layer: Any, states: Tensor, causal: bool = False) -> Tensor:
    """One encoder layer over all tokens, (N, L, D) to (N, L, D)."""
    normed = layer.layer_norm1(states)
    states = states + attention(layer, normed, normed, causal=causal)
    return states + layer.mlp(layer.layer_norm2(states))


def run_layer_at(layer: Any, states: Tensor, read: Tensor, causal: bool = False) -> Tensor:
    """One encoder layer for one token of each sequence; the other tokens are keys and values only.

    Args:
        layer: The last one, after which nothing but the token is looked at.
        states: (N, L, D).
        read: (N,), the token's index.
        causal: Whether it looks at the tokens up to itself only.

    Returns:
        (N, D).
    """
    rows = torch.arange(len(states), device=states.device)
    normed = layer.layer_norm1(states)
    seen = torch.arange(states.shape[1], device=states.device) <= read[:, None] if causal else None
    mixed = attention(layer, normed[rows, read][:, None], normed, None if seen is None else seen[:, None, None])
    one = states[rows, read] + mixed[:, 0]
    return one + layer.mlp(layer.layer_norm2(one))


class CLIPTower(Tower):
    """What both towers of a `CLIPModel` have in common: a stack of pre-norm layers whose head reads one token.

    Args:
        layers: The stack.
        norm: After the last layer.
        projection: Into the shared space.
        length: The most tokens it reads.
        causal: Whether a token looks at the ones before it only.
    """

    def __init__(
        self, layers: nn.ModuleList, norm: nn.Module, projection: nn.Linear, length: int, causal: bool
    ) -> None:
        self.layers, self.norm, self.projection, self.causal = layers, norm, projection, causal
        self.depth, self.width, self.length = len(layers), projection.in_features, length

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Hidden states before the first layer."""
        raise NotImplementedError

    def prefix(self, batch: PairBatch, layer: Layer) -> HiddenStates:
        """Hidden states after block `layer`."""
        self.check_layer(layer)
        hidden = self.embeddings(batch)
        states = hidden.states
        for block in self.layers[: 0 if layer == "embeddings" else layer + 1]:
            states = run_layer(block, states, self.causal)
        return hidden._replace(states=states)

    def suffix(self, states: Tensor, hidden: HiddenStates, layer: Layer) -> Tensor:
        """Embeddings of hidden states after block `layer`, (K, B, L, D) to (K, B, E)."""
        samples = states.shape[0]
        assert hidden.read is not None
        read = hidden.read.repeat(samples)
        flat = states.flatten(0, 1)
        first = 0 if layer == "embeddings" else layer + 1
        for block in self.layers[first:-1]:
            flat = run_layer(block, flat, self.causal)
        pooled = run_layer_at(self.layers[-1], flat, read, self.causal)
        return self.projection(self.norm(pooled)).unflatten(0, (samples, -1))


class CLIPImageTower(CLIPTower):
    """The vision transformer; its head reads CLS, the first token."""

    def __init__(self, model: CLIPModel) -> None:
        vision = model.vision_model
        super().__init__(
            vision.encoder.layers,
            vision.post_layernorm,
            model.visual_projection,
            vision.embeddings.num_positions,
            causal=False,
        )
        self.vision = vision
        self.patch = vision.config.patch_size

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """CLS and the patches, row by row."""
        states = self.vision.pre_layrnorm(self.vision.embeddings(batch.pixel_values))
        valid = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        special = torch.zeros_like(valid)
        special[:, 0] = True
        return HiddenStates(states, valid, special, torch.zeros(len(states), dtype=torch.long, device=states.device))

    def grid(self, batch: PairBatch) -> tuple[int, int]:
        """Patches per column and per row."""
        height, width = batch.pixel_values.shape[-2:]
        return height // self.patch, width // self.patch


class CLIPTextTower(CLIPTower):
    """The causal text transformer; its head reads EOS.

    Texts run at the length of the longest of the batch: what stands behind EOS is never looked at.
    """

    def __init__(self, model: CLIPModel) -> None:
        text = model.text_model
        length = text.config.max_position_embeddings
        super().__init__(text.encoder.layers, text.final_layer_norm, model.text_projection, length, causal=True)
        self.text = text

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Token and position embeddings, BOS first."""
        ids, valid = batch.input_ids, batch.attention_mask
        # As CLIPTextModel does: checkpoints from before its EOS was known have 2 there, and EOS is the largest id.
        eos = self.text.config.eos_token_id
        read = ids.argmax(-1) if eos == 2 else (ids == eos).int().argmax(-1)
        special = ~valid
        special[:, 0] = True
        special[torch.arange(len(ids), device=ids.device), read] = True
        return HiddenStates(self.text.embeddings(input_ids=ids), valid, special, read)

    def grid(self, batch: PairBatch) -> None:
        """Text is no grid."""
        return None


class CLIPBackbone(Backbone):
    """A `CLIPModel` with its processor.

    Args:
        model: The library's module.
        processor: Its `CLIPProcessor`.
        name: What the user called it.
    """

    def __init__(self, model: CLIPModel, processor: CLIPProcessor, name: str) -> None:
        super().__init__(model, name)
        self.image, self.text = CLIPImageTower(model), CLIPTextTower(model)
        self.processor = processor
        side: Any = model.vision_model.config.image_size
        self.image_size = (side, side)

    def preprocess(self, images: Sequence[Image.Image], texts: Sequence[str]) -> PairBatch:
        """Resize, crop and normalise the images; cut the texts into tokens, up to the model's limit."""
        check_texts(images, texts)
        pixels, views = self._read_images(images)
        tokenizer = self.processor.tokenizer
        limit = self.text.length
        encoded = tokenizer(
            list(texts),
            truncation=True,
            max_length=limit,
            padding=True,
            return_tensors="pt",
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
        )
        # Texts over the limit come in several pieces; the first one counts.
        pieces = encoded["overflow_to_sample_mapping"].tolist()
        first = [pieces.index(i) for i in range(len(texts))]
        truncated = tuple(pieces.count(i) > 1 for i in range(len(texts)))
        for text in (text for text, cut in zip(texts, truncated, strict=True) if cut):
            warnings.warn(
                f"The text {text[:40]!r}... has more than the {limit} tokens that {self.name!r} reads; the rest is cut "
                "off and marked so in the result. Shorten it to explain all of it.",
                stacklevel=2,
            )
        mask = encoded["attention_mask"][first].bool()
        longest = int(mask.sum(1).max())
        ids, mask = encoded["input_ids"][first][:, :longest], mask[:, :longest]
        lengths = mask.sum(1).tolist()
        device = self.device
        return PairBatch(
            pixel_values=pixels.to(device),
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            views=views,
            tokens=tuple(
                tuple(t.removesuffix("</w>") for t in tokenizer.convert_ids_to_tokens(row[:n].tolist()))
                for row, n in zip(ids, lengths, strict=True)
            ),
            spans=tuple(
                tuple((start, end) for start, end in row[:n].tolist())
                for row, n in zip(encoded["offset_mapping"][first], lengths, strict=True)
            ),
            truncated=truncated,
            pairs=(),
        )

    def _read_images(self, images: Sequence[Image.Image]) -> tuple[Tensor, tuple[Box, ...]]:
        processor = self.processor.image_processor
        trimmed = [trim(image.convert("RGB"), processor) for image in images]
        pixels = processor(images=[image for image, _ in trimmed], return_tensors="pt")["pixel_values"]
        views = tuple(within(kept, view_of(processor, *image.size)) for image, kept in trimmed)
        return pixels, views
