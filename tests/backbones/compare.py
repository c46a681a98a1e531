"""A backbone against its library: the library's own features and their gradients at a cut, by its own code alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.suffixes import Suffixes
from m2ib_lightning.types import Layer, Modality

TEXTS = ["a cat", "a photo of a dog and an umbrella", "look, a key near a star"]


def pictures(sizes: Sequence[tuple[int, int]] = ((40, 50), (40, 50), (70, 50))) -> list[Image.Image]:
    """Noise of the given (height, width)."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def library_features(
    backbone: Backbone, modality: Modality, images: Sequence[Image.Image], texts: Sequence[str]
) -> Tensor:
    """(B, E), from the library's own processor and model as its documentation says."""
    model: Any = backbone.model
    processor = backbone.processor
    if modality == "image":
        inputs = processor.image_processor(images=list(images), return_tensors="pt")
        if type(model).__name__ == "BlipForImageTextRetrieval":
            return model.vision_proj(model.vision_model(**inputs).last_hidden_state[:, 0])
        return model.get_image_features(**inputs).pooler_output
    limit = backbone.text.length
    if type(model).__name__.startswith("Siglip"):
        # As their documentation says: padded to the full length, without a mask.
        ids = processor.tokenizer(list(texts), padding="max_length", max_length=limit, truncation=True)["input_ids"]
        return model.get_text_features(input_ids=torch.tensor(ids)).pooler_output
    inputs = processor.tokenizer(list(texts), padding=True, max_length=limit, truncation=True, return_tensors="pt")
    if type(model).__name__ == "BlipForImageTextRetrieval":
        inputs.pop("token_type_ids", None)
        return model.text_proj(model.text_encoder(**inputs).last_hidden_state[:, 0])
    return model.get_text_features(**inputs).pooler_output


def library_blocks(backbone: Backbone, modality: Modality) -> list[nn.Module]:
    """The library's own blocks of a tower, those that can be cut at."""
    model: Any = backbone.model
    part = model.vision_model if modality == "image" else getattr(model, "text_model", None) or model.text_encoder
    encoder = getattr(part, "roberta", part).encoder
    stack = next(getattr(encoder, name) for name in ("layers", "layer", "blocks") if hasattr(encoder, name))
    return list(stack)[-backbone.tower(modality).depth :]


@contextmanager
def leaf_at(block: nn.Module) -> Iterator[list[Tensor]]:
    """While it is open, what a block is given is cut from what came before; the cut is a leaf with a gradient."""
    leaves: list[Tensor] = []

    def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = args[0] if args else kwargs["hidden_states"]
        leaves.append(given.detach().clone().requires_grad_())
        return ((leaves[0], *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": leaves[0]})

    handle = block.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield leaves
    finally:
        handle.remove()


class Compared(NamedTuple):
    """Ours and the library's: embeddings (B, E), and states and gradients of the N valid tokens, (N, D)."""

    embedding: tuple[Tensor, Tensor]
    states: tuple[Tensor, Tensor]
    gradient: tuple[Tensor, Tensor]

    def error(self, name: str) -> float:
        """Largest difference over the library's largest value."""
        ours, theirs = getattr(self, name)
        return float((ours - theirs).abs().max() / theirs.abs().max())


def compare(
    backbone: Backbone,
    modality: Modality,
    layer: Layer,
    images: Sequence[Image.Image] = (),
    texts: Sequence[str] = TEXTS,
    features: Any = library_features,
    blocks: Any = library_blocks,
) -> Compared:
    """Ours against the library's at a cut, for a batch of texts of several lengths."""
    images = images or pictures()
    tower = backbone.tower(modality)
    hidden = tower.prefix(backbone.preprocess(images, texts), layer)
    states = hidden.states.detach().clone().requires_grad_()
    ours = tower.suffix(states[None], hidden, layer)[0]
    weight = torch.linspace(-1, 1, ours.numel()).reshape(ours.shape)
    (ours * weight).sum().backward()

    with leaf_at(blocks(backbone, modality)[0 if layer == "embeddings" else layer + 1]) as leaves:
        theirs = features(backbone, modality, images, texts)
        (theirs * weight).sum().backward()
    assert states.grad is not None and leaves[0].grad is not None
    valid = hidden.valid
    return Compared(
        (ours.detach(), theirs.detach()),
        (states.detach()[valid], _as_tokens(leaves[0].detach(), valid)),
        (states.grad[valid], _as_tokens(leaves[0].grad, valid)),
    )


def _as_tokens(value: Tensor, valid: Tensor) -> Tensor:
    """The valid tokens of what a block was given: (B, L, D), or (B, D, gh, gw) in a convolutional network."""
    tokens = value.flatten(2).transpose(1, 2) if value.ndim == 4 else value
    # The library pads longer than we do.
    return tokens[:, : valid.shape[1]][valid]


def behind(
    backbone: Backbone,
    modality: Modality,
    suffixes: Suffixes | None = None,
    layer: Layer = 0,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings of two samples behind a layer and the gradient of a weighted sum of them; by the tower by default."""
    hidden = backbone.tower(modality).prefix(backbone.preprocess(pictures(), TEXTS), layer)
    states = torch.stack([hidden.states, 0.5 * hidden.states]).requires_grad_()
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        if suffixes is None:
            embedding = backbone.tower(modality).suffix(states, hidden, layer)
        else:
            embedding = suffixes(modality, states, hidden, layer)
    weight = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0))
    (embedding * weight).sum().backward()
    assert states.grad is not None
    return embedding.detach(), states.grad
