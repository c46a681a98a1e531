"""What visitors give and what they are shown: pictures read within limits, and as text that a page can hold."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from m2ib_lightning.data.images import is_dicom, load_image

MOST_BYTES = 32 * 2**20
"""Of one file."""

MOST_PIXELS = 64 * 10**6
"""Of one picture; telephones have up to 50 million."""

SIDE = 1024
"""A picture whose longer side is more is reduced to this before it is kept: models read it smaller still."""

SHOWN = 640
"""The longer side as the page shows it."""


def read_picture(path: str | Path) -> Image.Image:
    """The picture of a file as RGB, upright, no longer than `SIDE`.

    Its size is read from the head of the file and refused before any pixel is decoded.

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
        if not is_dicom(path):
            _check_pixels(path)
        picture = load_image(path)
    except ValueError as problem:  # names the file as the visitor knows it, not where the server keeps it
        raise ValueError(str(problem).replace(str(path), path.name)) from problem
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
    return picture


def _check_pixels(path: Path) -> None:
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width, height = 2**16, 2**16
    except Exception:  # load_image says what is wrong with it
        return
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"Expected a picture of at most {MOST_PIXELS // 10**6} million pixels but got {width} x {height}. "
            "Remedy: reduce it."
        )
