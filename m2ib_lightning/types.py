"""What the pieces hand to each other. A letter is one axis everywhere in the package:

B pairs, K noise samples, L tokens (special ones and padding included), D width of a tower, E width of the shared
embedding, H W pixels, gh gw cells of the image grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Modality = Literal["image", "text"]
"""Which tower."""

MODALITIES: tuple[Modality, ...] = ("image", "text")
"""Both towers, in the order in which results name them."""

Layer = int | Literal["embeddings"]
"""Where in a tower: after the block of this 0-based index, or on the embeddings before the first block."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom)."""

Span = tuple[int, int]
"""(start, end) characters of a text."""


class PartTruth(NamedTuple):
    """One thing that is shown.

    Attributes:
        mask: (H, W) bool, its pixels in the picture as it was read.
        span: (start, end) characters of the text that name it; None for what the text does not name but could be taken
            for what it names, such as the same object in another colour.
    """

    mask: NDArray[np.bool_]
    span: Span | None = None


class Truth(NamedTuple):
    """What a map of one pair should find; None for what is not known.

    Attributes:
        mask: (H, W) bool, the pixels of what the text names, in the picture as it was read.
        spans: (start, end) characters of the text that name what is shown.
        parts: The same thing by thing, where data tells which words name which.
    """

    mask: NDArray[np.bool_] | None = None
    spans: Sequence[Span] | None = None
    parts: Sequence[PartTruth] = ()


class Asked(NamedTuple):
    """What is asked of a pair beside its two maps.

    Attributes:
        phrases: What to find in the picture: (start, end) characters of the text, "auto" for the words that carry most
            of it, or "words" for each. In a reference also the words themselves, or a cell of a table with these as
            JSON or split by semicolons.
        against: A caption, or a picture or its file, that the pair is explained against.
        regions: What to find words for: boxes (left, top, right, bottom) in pixels, or masks (H, W).
    """

    phrases: Any = None
    against: Any = None
    regions: Sequence[Box | NDArray[np.bool_]] = ()


class Pair(NamedTuple):
    """One image and one text, as read from data.

    Attributes:
        id: Unique in its data set; names the files written for it.
        image: The picture, RGB and upright.
        text: The caption of the picture.
        source: Where the image came from (a path), "" if it was given in memory.
        truth: What a map should find, where data says so.
        fingerprint: Of the image file, "" if there is none: tells in a later run whether it is still the same.
        asked: What else is asked of it.
    """

    id: str
    image: Image.Image
    text: str
    source: str = ""
    truth: Truth = Truth()
    fingerprint: str = ""
    asked: Asked = Asked()


class BadPair(NamedTuple):
    """Stands in data for a pair that could not be read, and in results for one that could not be explained.

    Attributes:
        id: The name of the pair.
        text: The caption, "" if there is none.
        source: Where the image should have come from.
        error: The reason and the remedy, in one line.
    """

    id: str
    text: str
    source: str
    error: str


class PairBatch(NamedTuple):
    """Pairs as a model reads them.

    Attributes:
        pixel_values: (B, 3, H, W) float32, normalised as the model was trained.
        input_ids: (B, L) int64, padded on the right to the longest text of the batch.
        attention_mask: (B, L) bool, false for padding that the model does not read.
        views: What the model sees of each image after resizing and cropping, as a box in fractions of the original
            width and height; within 0..1 unless the processor pads.
        tokens: Of each text, its tokens as text, special tokens by their names; padding only where the model reads it.
        spans: Of each token, its (start, end) characters in the text, (0, 0) for special tokens.
        truncated: Whether a text was cut at the model's token limit.
        pairs: What the batch was made from.
        targets: Which towers are to be explained, and against what: by modality the direction (B, E) of the shared
            space along which the tower's normalised embedding is measured. None for both towers, each against the
            other one's normalised clean embedding; made by a `m2ib_lightning.targets.Target`.
        weights: Of each target (B,), what relevance along it counts for against compression; None for 1.
        opposed: Of each target another direction, (B, E): what speaks for it is taken off the map, see `OpposedFit`.
            Zeros where nothing is, None for nothing at all.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    views: tuple[Box, ...]
    tokens: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    truncated: tuple[bool, ...]
    pairs: tuple[Pair, ...]
    targets: Mapping[Modality, Tensor] | None = None
    weights: Mapping[Modality, Tensor] | None = None
    opposed: Mapping[Modality, Tensor] | None = None

    def keep(self, rows: Sequence[int]) -> PairBatch:
        """Only the pairs of the given indices; an index may be there more than once."""
        picked = list(rows)
        fields = self._each(lambda tensor: tensor[picked])._asdict()
        lists = {name: tuple(of[i] for i in picked if of) for name, of in fields.items() if isinstance(of, tuple)}
        return self._replace(**fields | lists)

    def to(self, device: torch.device) -> PairBatch:
        """The batch on a device; what is in pinned memory goes to a GPU while the processor goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> PairBatch:
        """The batch in memory that a GPU reads by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        """The batch with each of its tensors changed."""

        def changed(field: Any) -> Any:
            if isinstance(field, Mapping):
                return {name: change(value) for name, value in field.items()}
            return change(field) if isinstance(field, Tensor) else field

        return self._replace(**{name: changed(field) for name, field in self._asdict().items()})

    def distinct(self) -> tuple[PairBatch, list[int]]:
        """The batch with each of its `pairs` once, and for each row the one that it has there.

        A pair that is explained against several targets is several rows; what does not depend on the target is computed
        of these alone.
        """
        keys = [id(pair) for pair in self.pairs] or list(range(len(self.pixel_values)))
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        kept = sorted(first.values())
        return (self if len(kept) == len(keys) else self.keep(kept)), [kept.index(first[key]) for key in keys]


class HiddenStates(NamedTuple):
    """What a tower holds after one block, and what the rest of the tower needs to go on from there.

    Attributes:
        states: What each token is after the layer, (B, L, D).
        valid: (B, L) bool, false for padding.
        special: (B, L) bool, tokens that stand for no part of the input: CLS, BOS, EOS and padding.
        read: (B,) int64, the index of the token that the head reads, or None if it pools them all.
    """

    states: Tensor
    valid: Tensor
    special: Tensor
    read: Tensor | None

    def keep(self, rows: Tensor | Sequence[int]) -> HiddenStates:
        """Only the pairs of the given indices; an index may be there more than once."""
        kept: Any = {name: None if field is None else field[rows] for name, field in self._asdict().items()}
        return self._replace(**kept)
