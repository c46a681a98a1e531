"""Ground truth as data gives it, and as the pixels of the picture that was read.

Boxes, outlines and masks are in pixels of the image file as it is stored, before its EXIF orientation is undone. They
are drawn only when a pair is read with its truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from m2ib_lightning.data.images import (
    MAX_PIXELS,
    ORIENTATION,
    ImageSource,
    StoredImage,
    image_name,
    open_stored,
    stored_shape,
)
from m2ib_lightning.types import Box, PartTruth, Span, Truth


class Polygon(NamedTuple):
    """An outline: x and y of its corners, in turn."""

    corners: Sequence[float]


class RunLengths(NamedTuple):
    """COCO's uncompressed run lengths: how many pixels are out, in, out, ..., column by column."""

    counts: Sequence[int]
    size: tuple[int, int]
    """(height, width)."""


class MaskFile(NamedTuple):
    """A picture whose pixels are not 0 where the truth is; of a palette picture, the index is what counts."""

    image: str | StoredImage


Region = Box | Polygon | RunLengths | MaskFile
"""A part of a picture; a box is (left, top, right, bottom), right and bottom exclusive."""


class TruthReference(NamedTuple):
    """What a map should find, before it is read.

    Attributes:
        regions: Parts of the picture that the text names; the truth is all of them together; with none it is not known.
        spans: (start, end) characters of the text that name what is shown, None if it is not known.
        size: (width, height) of the picture that the regions were drawn on; they are resized where the file is another
            size of the same proportions. By default that of the file.
        parts: The same thing by thing: the (start, end) characters that name one, and its regions.
    """

    regions: Sequence[Region] = ()
    spans: Sequence[tuple[int, int]] | None = None
    size: tuple[int, int] | None = None
    parts: Sequence[tuple[Span, Sequence[Region]]] = ()

    def read(self, image: ImageSource, size: tuple[int, int], text: str) -> Truth:
        """The truth of a picture.

        Args:
            image: Where the picture came from; its header says how it was turned.
            size: (width, height) of the picture as it was read, upright.
            text: The caption that spans count in.

        Raises:
            ValueError: A region is empty or beyond the picture, a mask cannot be read or has other proportions, or a
                span is not of the text.
        """
        for start, end in (*(self.spans or ()), *(span for span, _ in self.parts)):
            if not 0 <= start < end <= len(text):
                raise ValueError(
                    f"Expected spans within the text's {len(text)} characters but got ({start}, {end}). "
                    "Remedy: (start, end), counted from 0, the end exclusive."
                )
        if not self.regions:
            return Truth(None, self.spans)
        turned, in_file = stored_shape(image)
        stored = size if turned < 5 else size[::-1]
        drawn = self.size or in_file or stored  # a large picture is not read in the size of its file
        if drawn[0] * drawn[1] > max(stored[0] * stored[1], 8 * MAX_PIXELS):
            raise ValueError(
                f"Expected truth on a picture of some size but got {drawn[0]} x {drawn[1]} for {image_name(image)}. "
                "Remedy: correct the size of the picture in the annotations."
            )
        _check_proportions(drawn, stored, image_name(image))

        def pixels(regions: Sequence[Region]) -> NDArray[np.bool_]:
            mask = np.zeros(drawn[::-1], dtype=bool)
            for region in regions:
                mask |= draw(region, drawn)
            whole = Image.fromarray(mask).resize(stored, Image.Resampling.NEAREST)
            whole.getexif()[ORIENTATION] = turned
            return np.asarray(ImageOps.exif_transpose(whole), dtype=bool)

        parts = [PartTruth(pixels(regions), span) for span, regions in self.parts]
        return Truth(pixels(self.regions), self.spans, parts)


def draw(region: Region, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool, the pixels of a region; of a box those whose centre lies in it, at least one.

    Args:
        region: A box or a mask, in pixels.
        size: (width, height) of the picture.

    Raises:
        ValueError: It is empty or beyond the picture, or a mask cannot be read or has another size.

    Example:
        >>> draw((1.0, 0.0, 3.0, 1.0), (4, 2)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    if isinstance(region, MaskFile):
        return _mask_file(region, size)
    if not isinstance(region, RunLengths):
        numbers = region.corners if isinstance(region, Polygon) else region
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"Expected finite numbers of pixels but got {tuple(numbers)!r:.80}. Remedy: correct them.")
    if isinstance(region, RunLengths):
        return _run_lengths(region, size)
    if isinstance(region, Polygon):
        canvas = Image.new("1", size)
        if len(region.corners) < 6 or len(region.corners) % 2:
            raise ValueError(
                f"Expected x and y of at least 3 corners but got {len(region.corners)} numbers. "
                "Remedy: correct the outline."
            )
        ImageDraw.Draw(canvas).polygon(list(region.corners), fill=1)
        return np.array(canvas, dtype=bool)
    return _box(region, size)


def _box(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    left, top, right, bottom = box
    width, height = size
    if not (left < right and top < bottom and right > 0 and bottom > 0 and left < width and top < height):
        raise ValueError(
            f"Expected boxes (left, top, right, bottom) within {width} x {height} pixels but got {tuple(box)}. "
            "Remedy: pixels of the original picture, left before right and top before bottom."
        )
    mask = np.zeros((height, width), dtype=bool)
    mask[_pixels(top, bottom, height), _pixels(left, right, width)] = True
    return mask


def _pixels(start: float, end: float, count: int) -> slice:
    """The pixels whose centre is between two coordinates, or else the one that they are in."""
    first, last = int(np.ceil(start - 0.5)), int(np.ceil(end - 0.5))
    first = min(max(first if first < last else int(start), 0), count - 1)
    return slice(first, max(last, first + 1))


def _run_lengths(region: RunLengths, size: tuple[int, int]) -> NDArray[np.bool_]:
    if tuple(region.size) != size[::-1] or sum(region.counts) != size[0] * size[1]:
        raise ValueError(
            f"Expected run lengths of {size[1]} x {size[0]} pixels (height x width) but got {sum(region.counts)} "
            f"pixels of {region.size[0]} x {region.size[1]}. Remedy: give those of this picture."
        )
    inside = np.arange(len(region.counts)) % 2 == 1
    return np.repeat(inside, region.counts).reshape(size).T


def _mask_file(region: MaskFile, size: tuple[int, int]) -> NDArray[np.bool_]:
    values = np.asarray(open_stored(region.image, max(MAX_PIXELS, size[0] * size[1]))) != 0
    if values.ndim == 3:
        values = values[..., : 1 if values.shape[-1] == 2 else 3].any(-1)  # no alpha
    mask = Image.fromarray(values)
    _check_proportions(mask.size, size, image_name(region.image))
    return np.array(mask.resize(size, Image.Resampling.NEAREST), dtype=bool)


def _check_proportions(drawn: tuple[int, int], stored: tuple[int, int], name: str) -> None:
    """Refuse truth of another picture: both sides must have been resized alike, to one pixel."""
    width = drawn[0] * stored[1] / drawn[1]
    if abs(width - stored[0]) > max(1.0, stored[1] / drawn[1]):
        raise ValueError(
            f"Expected truth and picture of one shape but got {drawn[0]} x {drawn[1]} and {stored[0]} x {stored[1]} "
            f"pixels for {name}. Remedy: give the truth of this picture, as it is stored in its file."
        )
