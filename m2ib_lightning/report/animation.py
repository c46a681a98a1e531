"""Pictures of one pair, step by step, as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP, END = 300, 2000
"""How long a picture is shown, and the last one, in milliseconds."""

STILL = 64
"""Colours of 256 that are kept for what does not move: scales and labels look the same in every frame."""


def save_animation(frames: Sequence[Image.Image], path: str | Path) -> None:
    """Write a GIF that repeats for ever.

    Args:
        frames: RGB pictures of one size, in order.
        path: The file, whose name ends in `.gif`.

    Raises:
        ValueError: There are no frames, or their sizes differ.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"Expected frames of one size but got {sorted(sizes)}. Remedy: draw all of one pair's masks.")
    codes = [_codes(frame) for frame in frames]
    still = np.logical_and.reduce([code == codes[0] for code in codes])
    ground = codes[0][0, 0]
    fixed = _quantized(codes[0], still & (codes[0] != ground), STILL - 1)
    white = np.asarray(frames[0])[0, 0].tolist()  # the ground's colour, kept exactly
    drawn = [_indexed(code, ground, white, still, fixed) for code in codes]
    times = [STEP] * (len(drawn) - 1) + [END]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=False, disposal=1)


def _codes(frame: Image.Image) -> NDArray[np.int32]:
    """(H, W), each pixel's colour as one number, red, green and blue to 7 bits."""
    red, green, blue = (np.asarray(channel, np.int32) >> 1 for channel in frame.split())
    return red << 14 | green << 7 | blue


def _indexed(
    code: NDArray[np.int32], ground: int, white: list[int], still: NDArray[np.bool_], fixed: Colours
) -> Image.Image:
    """The frame in 256 colours: the ground's, those of what stands still, and its own for the rest."""
    drawn = code != ground
    moving = _quantized(code, drawn & ~still, 256 - STILL)
    index = np.zeros(still.shape, np.uint8)
    index[drawn & still], index[drawn & ~still] = 1 + fixed[0], STILL + moving[0]
    image = Image.fromarray(index, "P")
    image.putpalette([*white, *fixed[1], *[0] * (3 * (STILL - 1) - len(fixed[1])), *moving[1]])
    return image


Colours = tuple["NDArray[np.uint8]", list[int]]
"""The colour of each pixel as an index, and the colours."""


def _quantized(code: NDArray[np.int32], chosen: NDArray[np.bool_], count: int) -> Colours:
    """Some pixels of a frame in so many colours; dithering would flicker from frame to frame."""
    pixels = code[chosen]
    if not len(pixels):
        return np.zeros(0, np.uint8), []
    # Every colour counts once, however many pixels have it: few are hot, and they are what is looked at.
    present = np.zeros(1 << 21, np.bool_)
    present[pixels] = True
    used = np.flatnonzero(present)
    colours = np.stack([used >> 13 & 254, used >> 6 & 254, used << 1 & 254], axis=-1).astype(np.uint8)
    row = Image.fromarray(colours[None]).quantize(count, method=Image.Quantize.MEDIANCUT, kmeans=1)
    table = np.zeros(1 << 21, np.uint8)
    table[used] = np.asarray(row)[0]
    return table[pixels], (row.getpalette() or [])[: 3 * count]
