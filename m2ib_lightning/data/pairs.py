"""Image-text pairs as cheap references: what a source of them is, whether they can be read, and reading one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from m2ib_lightning.data.asked import read_asked
from m2ib_lightning.data.ids import UNNAMED, Ids
from m2ib_lightning.data.images import (
    MAX_PIXELS,
    ImageLike,
    ImageSource,
    check_image,
    fingerprint,
    image_name,
    load_image,
)
from m2ib_lightning.types import Asked, BadPair, Pair, Truth


class LazyTruth(Protocol):
    """Truth that takes work to read, such as a `TruthReference`."""

    def read(self, image: ImageSource, size: tuple[int, int], text: str) -> Truth:
        """The truth of a picture, given where it came from, its (width, height) as it was read, and the text."""


class Reference(Protocol):
    """One pair before it is read; a `PairReference`, or anything with its fields."""

    @property
    def id(self) -> str:
        """A name that is unique in the source and fit to be a file name."""

    @property
    def image(self) -> ImageSource:
        """The picture, or where it is."""

    @property
    def text(self) -> str:
        """The caption, as given."""

    @property
    def truth(self) -> Truth | LazyTruth:
        """What a map should find, where data says so."""

    @property
    def place(self) -> str:
        """Where this was read, for messages, "" if that says nothing."""

    @property
    def asked(self) -> Asked:
        """What else is asked of the pair, as its cells say it."""


class PairReference(NamedTuple):
    """One pair before it is read.

    Attributes:
        id: Unique in its source and fit to be a file name; `UNNAMED` to have one made from the image's name.
        image: A path, a picture in memory, or the bytes of an image file.
        text: The caption, as given.
        truth: What a map should find, where data says so.
        place: Where this was read, for messages ("line 4 of pairs.csv"), "" if that says nothing.
        asked: What else is asked of the pair, as its cells say it.
    """

    id: str
    image: ImageSource
    text: str
    truth: Truth | LazyTruth = Truth()
    place: str = ""
    asked: Asked = Asked()


class PairSource(ABC):
    """Where pairs come from. A format of your own is one class with `references`, named on the command line.

    It must give the same pairs in the same order each time it is iterated over, and be fit for `pickle`.

    Example:
        >>> class Numbers(PairSource):
        ...     def references(self):
        ...         yield from (PairReference(f"n{i}", f"{i}.png", f"the number {i}") for i in range(3))
        >>> [pair.id for pair in Numbers()]
        ['n0', 'n1', 'n2']

    Attributes:
        holds_images: Whether its references hold images, so that a list of them all takes much memory.
        fixed: Whether the pair of an id can never be another one, so that nobody needs to look.
    """

    holds_images = False
    fixed = False

    @abstractmethod
    def references(self) -> Iterable[Reference | BadPair]:
        """The pairs in order, no image opened; a `BadPair` for one that cannot even be referred to.

        Raises:
            ValueError: Something is wrong with the source as a whole; said in one line.
        """

    def count(self) -> int | None:
        """How many pairs there are, None if only reading them all would tell.

        Raises:
            ValueError: Something is wrong with the source as a whole, where looking for it is cheap.
        """
        return None

    def part(self, index: int, count: int) -> PairSource | None:
        """The part `index` of `count` that can be read without reading the rest, None if there is no such thing.

        The parts together have every pair once. Ids must then be distinct by themselves.
        """
        return None

    def __iter__(self) -> Iterator[Reference | BadPair]:
        """`references`, ids made where there are none; a pair with an id that cannot be is a `BadPair`."""
        ids = Ids()
        for position, pair in enumerate(self.references(), 1):
            if isinstance(pair, BadPair):
                yield _storable(pair._replace(id=ids.make(pair.id)))
                continue
            if pair.id == UNNAMED:
                assert isinstance(pair, PairReference)
                yield pair._replace(id=ids.make(_stem(pair.image)))
                continue
            fault = ids.fault(pair.id, pair.place or f"pair {position}")
            if fault:
                yield _storable(BadPair(ids.make(f"{pair.id}-pair-{position}"), pair.text, _source(pair.image), fault))
            else:
                yield pair


class GivenPairs(PairSource):
    """Pairs from images and texts, the first with the first and so on; a single one goes with all of the others.

    Args:
        images: Paths of pictures, or pictures.
        texts: A caption for each picture.

    Raises:
        ValueError: The numbers of images and texts do not fit.
    """

    def __init__(self, images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str]) -> None:
        self.images = [images] if isinstance(images, ImageLike) else list(images)
        self.texts = [texts] if isinstance(texts, str) else list(texts)
        count = max(len(self.images), len(self.texts))
        if not self.images or not self.texts or not {len(self.images), len(self.texts)} <= {1, count}:
            raise ValueError(
                f"Expected as many texts as images, or one of either, but got {len(self.images)} images and "
                f"{len(self.texts)} texts. Remedy: one text for each image."
            )
        self.images *= count // len(self.images)
        self.texts *= count // len(self.texts)

    def references(self) -> Iterator[PairReference]:
        """The pairs, in the order in which they were given."""
        for image, text in zip(self.images, self.texts, strict=True):
            yield PairReference(UNNAMED, image, text)

    def count(self) -> int:
        """How many pairs there are."""
        return len(self.images)


def make_references(images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str]) -> list[Reference]:
    """Pairs from images and texts as a list; see `GivenPairs`.

    Raises:
        ValueError: The numbers of images and texts do not fit.

    Example:
        >>> [pair.id for pair in make_references("animals/cat.jpg", ["a cat", "a dog"])]
        ['cat', 'cat-2']
    """
    return list_pairs(GivenPairs(images, texts))


def list_pairs(source: PairSource) -> list[Reference]:
    """All pairs of a source.

    Raises:
        ValueError: An id is doubled or can be no file name, or something is wrong with the source as a whole.
    """
    pairs: list[Reference] = []
    for pair in source:
        if isinstance(pair, BadPair):
            raise ValueError(pair.error)
        pairs.append(pair)
    return pairs


def check_all(references: Sequence[Reference], max_pixels: int = MAX_PIXELS) -> None:
    """Make sure that every pair can be read, without keeping any; an image of several pairs is tried once.

    Args:
        references: The pairs to look at, unread.
        max_pixels: The most pixels that a picture may have, as of `load_image`.

    Raises:
        ValueError: The first pair that cannot be read, by row and id, with the reason.
    """
    seen: set[str] = set()
    for row, pair in enumerate(references, 1):
        path = str(pair.image) if isinstance(pair.image, str | Path) else None
        try:
            _check_text(pair.text)
            if path not in seen:
                check_image(pair.image, max_pixels)
        except ValueError as problem:
            raise ValueError(f"Pair {row} of {len(references)}, {pair.id!r}: {problem}") from problem
        if path is not None:
            seen.add(path)


def read_pair(reference: Reference, truth: bool = True, max_pixels: int = MAX_PIXELS) -> Pair:
    """The pair with its image decoded.

    Args:
        reference: The pair to read.
        truth: Whether its ground truth is read as well, which opens mask files and draws boxes.
        max_pixels: The most pixels that a picture may have, as of `load_image`.

    Raises:
        ValueError: The image or its truth cannot be read or the caption cannot be one; this says nothing about other
            pairs.
    """
    _check_text(reference.text)
    source = _source(reference.image)
    if not _is_unicode(source):
        raise ValueError(f"Expected a path in UTF-8 but got {source!r}. Remedy: rename the file.")
    image = load_image(reference.image, max_pixels)
    known = reference.truth if truth else Truth()
    if not isinstance(known, Truth):
        known = known.read(reference.image, image.size, reference.text)
    asked = read_asked(reference.asked, reference.text)
    return Pair(reference.id, image, reference.text, source, known, fingerprint(reference.image), asked)


def read_or_record(reference: Reference | BadPair, truth: bool = False, max_pixels: int = MAX_PIXELS) -> Pair | BadPair:
    """The pair, or why it cannot be read."""
    if isinstance(reference, BadPair):
        return reference
    try:
        return read_pair(reference, truth, max_pixels)
    except (ValueError, TypeError, OSError) as problem:
        reason = " ".join(str(problem).split())
        return _storable(BadPair(reference.id, str(reference.text), _source(reference.image), reason))


def _storable(pair: BadPair) -> BadPair:
    """With halves of characters written out, which no file of results can hold."""
    return BadPair(*(field.encode("utf-8", "backslashreplace").decode() for field in pair))


def _stem(image: ImageSource) -> str:
    return "image" if isinstance(image, Image.Image) else Path(image_name(image)).stem


def _source(image: ImageSource) -> str:
    """What stands in results for where an image came from."""
    return "" if isinstance(image, Image.Image) else image_name(image)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"Expected a text but got {type(text).__name__}. Remedy: give a string.")
    if not text.strip():
        raise ValueError("Expected a caption but got an empty text. Remedy: write one or leave the pair out.")
    if len(text) > LONGEST:
        raise ValueError(
            f"Expected a caption of at most {LONGEST:,} characters but got {len(text):,}. Remedy: shorten it."
        )
    if not _is_unicode(text):
        raise ValueError(f"Expected Unicode but got half of a character in {text!r:.80}. Remedy: write it as UTF-8.")


def _is_unicode(text: str) -> bool:
    """Whether there is no lone surrogate in it, as JSON can hold and file names that are not UTF-8 become."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


LONGEST = 131_072
"""Characters of a caption; every model reads far fewer."""
