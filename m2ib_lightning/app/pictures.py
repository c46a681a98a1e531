"""What visitors give: pictures, read within limits."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from m2ib_lightning.data.images import load_image

MOST_BYTES = 32 * 2**20
"""Of one file."""

MOST_PIXELS = 64 * 10**6
"""Of one picture; telephones have up to 50 million. A JPEG of more is read smaller."""

SIDE = 1024
"""A picture whose longer side is more is reduced to this before it is kept: models read it smaller still."""

SHOWN = 640
"""The longer side as the page shows it."""


def read_picture(path: str | Path) -> Image.Image:
    """The picture of a file as RGB, upright, no longer than `SIDE`.

    Its size is read from the head of the file, and what is too large refused before any pixel is decoded.

    Raises:
        ValueError: It is no picture, is broken, or has too many bytes or pixels.
    """
    path = Path(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"Expected a file of at most {MOST_BYTES // 2**20} MB but got {path.stat().st_size / 2**20:.0f} MB. "
            "Remedy: reduce the picture."
        )
    try:
        picture = load_image(path, MOST_PIXELS)
    except ValueError as problem:  # names the file as the visitor knows it, not where the server keeps it
        raise ValueError(str(problem).replace(str(path), path.name)) from problem
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
    return picture
