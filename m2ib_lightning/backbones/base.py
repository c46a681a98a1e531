"""The contract of a backbone. Nobody outside this folder knows the inside of a model.

A family of models is one file with a `Backbone` whose two `Tower`s run the first and the last part of the model apart.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from m2ib_lightning.types import HiddenStates, Layer, Modality, Pair, PairBatch


class Tower(ABC):
    """One half of a CLIP-like model, cut in two at a layer: `suffix(prefix(x))` is the library's own full forward.

    Attributes:
        depth: How many blocks the tower has.
        width: D, channels of the hidden states.
        length: The most tokens that the tower reads, special ones included.
        reads: What its head pools, in words: "CLS", "EOS", "attention over all patches", ...
        prefix_tokens: How many tokens come before those of the input: CLS, BOS, registers.
        reads_padding: Whether it was trained on texts padded to its length with the padding attended to. Padding tokens
            then are valid, and special.
        patch: Pixels to a side of what becomes a token, None for a text.
    """

    depth: int
    width: int
    length: int
    reads: str
    prefix_tokens: int = 0
    reads_padding: bool = False
    patch: int | None = None

    @abstractmethod
    def prefix(self, batch: PairBatch, layer: Layer) -> HiddenStates:
        """Hidden states after block `layer`, or before the first block at "embeddings"."""

    @abstractmethod
    def suffix(self, states: Tensor, hidden: HiddenStates, layer: Layer) -> Tensor:
        """Embeddings of hidden states after block `layer`.

        Args:
            states: (K, B, L, D), K versions of what `prefix` gave.
            hidden: What `prefix` gave, for everything about the tokens.
            layer: The one that `prefix` was called with.

        Returns:
            (K, B, E), not normalised.
        """

    def finish(self, hidden: HiddenStates, layer: Layer) -> Tensor:
        """Embeddings (B, E) of the hidden states after block `layer` as they are, not normalised."""
        return rearrange(self.suffix(rearrange(hidden.states, "b l d -> 1 b l d"), hidden, layer), "1 b e -> b e")

    def grid(self, batch: PairBatch) -> tuple[int, int] | None:
        """(gh, gw), the rows and columns that the content tokens form, by default patches; None if they are no grid."""
        if self.patch is None:
            return None
        height, width = batch.pixel_values.shape[-2:]
        return height // self.patch, width // self.patch

    def grids(self, batch: PairBatch) -> list[tuple[int, int]] | None:
        """The same for each pair of a batch, for models that read pictures of several shapes at once."""
        grid = self.grid(batch)
        return None if grid is None else [grid] * len(batch.pixel_values)

    def check_layer(self, layer: Layer, name: str = "layer") -> None:
        """Refuse a layer that the tower cannot be cut at.

        Raises:
            ValueError: It is none of its blocks, or the last one, after which nothing is mixed any more.
        """
        if layer == "embeddings" or (isinstance(layer, int) and 0 <= layer <= self.depth - 2):
            return
        raise ValueError(
            f"Expected `{name}` to be 'embeddings' or a block in 0..{self.depth - 2} but got {layer!r}. "
            f"Remedy: choose one of those; the model has {self.depth} blocks and the last one must stay behind the "
            "bottleneck."
        )


class Backbone(nn.Module, ABC):
    """A frozen CLIP-like model: two towers into one space.

    Args:
        model: The library's own module; it is frozen and put into evaluation mode.
        name: The name that the user gave for it.

    Attributes:
        model: The library's own module.
        image: The image tower.
        text: The text tower.
        image_size: (H, W) in pixels of what `preprocess` gives.

    Raises:
        ValueError: A weight is not finite.
    """

    image: Tower
    text: Tower
    image_size: tuple[int, int]
    kept_contract = False
    """Whether `contracts.check_backbone` found nothing wrong."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        for key, value in model.named_parameters():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"Expected finite weights but {key} of {name!r} has some that are not. "
                    "Remedy: get the checkpoint again."
                )
        self.model = model.requires_grad_(False).eval()
        self.name = name

    def preprocess(self, images: Sequence[Image.Image], texts: Sequence[str]) -> PairBatch:
        """`read`, on the device of the model."""
        return self.read(images, texts).to(self.device)

    @abstractmethod
    def read(self, images: Sequence[Image.Image], texts: Sequence[str]) -> PairBatch:
        """Read pairs as the model was trained to, in the processor's memory: a worker may do it.

        Args:
            images: Pictures of any mode and size.
            texts: As many captions, none of them empty.

        Returns:
            The batch, its `pairs` called by their places, see `unnamed_pairs`.

        Raises:
            ValueError: Their numbers differ, there are none, or a text is empty.
        """

    def preprocess_pairs(self, pairs: Sequence[Pair]) -> PairBatch:
        """`preprocess` for pairs as read from data."""
        return self.read_pairs(pairs).to(self.device)

    def read_pairs(self, pairs: Sequence[Pair]) -> PairBatch:
        """`read` for pairs as read from data."""
        batch = self.read([pair.image for pair in pairs], [pair.text for pair in pairs])
        return batch._replace(pairs=tuple(pairs))

    def tower(self, modality: Modality) -> Tower:
        """The tower of a modality."""
        return self.image if modality == "image" else self.text

    def embed(self, modality: Modality, batch: PairBatch) -> Tensor:
        """Clean embeddings (B, E), not normalised; no gradient."""
        with torch.no_grad():
            hidden = self.tower(modality).prefix(batch, "embeddings")
            return self.tower(modality).finish(hidden, "embeddings")

    def describe(self) -> dict[str, Any]:
        """What was inferred about the model, as plain values for printing or JSON.

        Example:
            >>> from m2ib_lightning import load_backbone
            >>> load_backbone("embedded").describe()["image"]["pixels"]
            (96, 96)
        """
        return {
            "name": self.name,
            "class": type(self.model).__name__,
            "weights": self.weight_hash,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "image": {"pixels": self.image_size, "grid": self._grid(), **_describe(self.image)},
            "text": _describe(self.text),
        }

    def _grid(self) -> tuple[int, int] | None:
        """Of a picture of the default size."""
        ids = torch.zeros(1, 1, dtype=torch.long)
        pixels = torch.zeros(1, 3, *self.image_size)
        return self.image.grid(PairBatch(pixels, ids, ids.bool(), (), (), (), (), ()))

    @cached_property
    def weight_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the model's weights, by name."""
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def train(self, mode: bool = True) -> Backbone:
        """Does nothing: a backbone stays in evaluation mode."""
        return self


def _describe(tower: Tower) -> dict[str, Any]:
    return {
        "blocks": tower.depth,
        "layers": f"'embeddings' or 0..{tower.depth - 2}",
        "width": tower.width,
        "most tokens": tower.length,
        "prefix tokens": tower.prefix_tokens,
        "head reads": tower.reads,
        "padding": "read like any token" if tower.reads_padding else "hidden",
    }


def check_whole_patches(size: tuple[int, int], side: int) -> int:
    """How many patches of `side` x `side` pixels cover (H, W).

    Raises:
        ValueError: They do not cover it exactly.

    Example:
        >>> check_whole_patches((224, 336), 16)
        294
    """
    if size[0] % side or size[1] % side or min(size) < side:
        raise ValueError(
            f"Expected `image_size` to be whole patches of {side} pixels but got {size}. "
            f"Remedy: choose multiples of {side}."
        )
    return (size[0] // side) * (size[1] // side)


def with_prefix(states: Tensor, prefix: int, reads_first: bool) -> HiddenStates:
    """Hidden states of patches behind `prefix` special tokens, of which the head may read the first."""
    special = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
    special[:, :prefix] = True
    read = torch.zeros(len(states), dtype=torch.long, device=states.device) if reads_first else None
    return HiddenStates(states, torch.ones_like(special), special, read)


def unnamed_pairs(images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Pair, ...]:
    """Pairs called by their places: "0", "1", ..."""
    return tuple(Pair(str(i), image, text) for i, (image, text) in enumerate(zip(images, texts, strict=True)))


def check_texts(images: Sequence[Image.Image], texts: Sequence[str]) -> None:
    """Refuse what no model can read.

    Raises:
        ValueError: The numbers of images and texts differ, there are none, or a text is empty.
    """
    if len(images) != len(texts) or not texts:
        raise ValueError(
            f"Expected as many images as texts, at least one, but got {len(images)} and {len(texts)}. "
            "Remedy: give lists of one length."
        )
    for index, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"Expected a caption for pair {index} but it is empty. Remedy: give it a text.")
