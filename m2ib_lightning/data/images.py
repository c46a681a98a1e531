"""Pictures of any kind as upright RGB, and a quick test that they can be read at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from m2ib_lightning.data.dicom import MissingExtra, read_dicom


class StoredImage(NamedTuple):
    """The bytes of an image file that lies in another file.

    Attributes:
        name: What to call it, like a path: "shard-3.tar/cat.jpg".
        data: Of the file.
    """

    name: str
    data: bytes


ImageSource = str | Path | Image.Image | StoredImage
"""A path, a picture in memory, or an image file in memory."""

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""

DICOM = (".dcm", ".dicom")
"""Suffixes of files that need pydicom."""


def load_image(source: ImageSource) -> Image.Image:
    """The picture as 8-bit RGB, turned upright by its EXIF orientation; always a new picture.

    Transparent parts are shown on white. Of a file with several frames the first is taken. More than 8 bits are
    rescaled linearly: integers (modes "I" and "I;16") from 0..65535 to 0..255 whatever values occur, so that pictures
    stay comparable; floats (mode "F"), which have no agreed range, from their own smallest and largest value. A float
    picture of one value is black. DICOM files (`.dcm`) are shown as their window says; see `read_dicom`.

    Raises:
        RuntimeError: A DICOM file is given and pydicom is not installed.
        ValueError: The file is missing, a folder, empty, cut short or no picture, or a pixel is not finite or outside
            of the 16-bit range.
        TypeError: The source is neither a path nor a picture.

    Example:
        >>> load_image(Image.new("LA", (3, 2), (0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    return _to_rgb(_decode(source), source)


def check_image(source: ImageSource) -> None:
    """Raise what `load_image` would, for less work: JPEG files are decoded at an eighth of their size."""
    _to_rgb(_decode(source, reduced=True), source)


def image_name(source: ImageSource) -> str:
    """What to call a picture in messages: its path, if it has one."""
    if isinstance(source, StoredImage):
        return source.name
    return "an image in memory" if isinstance(source, Image.Image) else str(source)


def orientation(source: ImageSource) -> int:
    """The EXIF orientation that `load_image` undoes, 1 to 8; 1 for none."""
    if is_dicom(source):
        return 1
    try:
        if isinstance(source, Image.Image):
            return int(source.getexif().get(ORIENTATION, 1))
        with Image.open(_file(source)) as image:
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as load_image, which shows a picture with a broken EXIF block as it is stored
        return 1


def open_stored(source: str | Path | StoredImage) -> Image.Image:
    """The picture of a file in its own mode and as it is stored, not turned.

    Raises:
        ValueError: See `load_image`.
    """
    try:
        with Image.open(_file(source)) as image:
            image.load()
            return image
    except Exception as problem:
        raise ValueError(f"Expected {_fault(source, problem)}") from problem


def is_dicom(source: ImageSource) -> bool:
    """Whether the name of a picture is that of a DICOM file."""
    return not isinstance(source, Image.Image) and image_name(source).lower().endswith(DICOM)


def _file(source: str | Path | StoredImage) -> str | Path | io.BytesIO:
    return io.BytesIO(source.data) if isinstance(source, StoredImage) else source


def _decode(source: ImageSource, reduced: bool = False) -> Image.Image:
    """The picture upright in its own mode, with all its pixels in memory."""
    if not isinstance(source, str | os.PathLike | Image.Image | StoredImage):
        raise TypeError(
            f"Expected a path or a PIL image but got {type(source).__name__}. "
            "Remedy: turn an array into one with Image.fromarray."
        )
    try:
        if isinstance(source, Image.Image):
            return ImageOps.exif_transpose(source)
        if is_dicom(source):
            return read_dicom(_file(source))
        with Image.open(_file(source)) as image:
            if reduced:
                image.draft(None, (1, 1))
            return ImageOps.exif_transpose(image)
    except MissingExtra:
        raise
    except Exception as problem:  # decoders of broken files raise OSError, SyntaxError, struct.error and others
        raise ValueError(f"Expected {_fault(source, problem)}") from problem


def _fault(source: ImageSource, problem: Exception) -> str:
    """What is wrong with a picture, and the remedy."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if os.path.isdir(path):
            return f"an image file but got the folder {path}. Remedy: give a file in it, or the folder as `source`."
        if not os.path.exists(path):
            return f"an image file but got {path!r}, which does not exist. Remedy: correct the path."
        if os.path.getsize(path) == 0:
            return f"an image file but got {path}, which is empty (0 bytes). Remedy: get the file again."
    if isinstance(source, StoredImage) and not source.data:
        return f"an image file but got {source.name}, which is empty (0 bytes). Remedy: get the file again."
    if isinstance(problem, UnidentifiedImageError):
        return f"an image file but got {image_name(source)}, which is none. Remedy: convert it to PNG or JPEG."
    reason = " ".join(str(problem).split())
    return f"a readable image but got {image_name(source)}, broken or cut short ({reason}). Remedy: get the file again."


def _to_rgb(image: Image.Image, source: ImageSource) -> Image.Image:
    """The picture as RGB of 8 bits."""
    if min(image.size) < 1:
        raise ValueError(
            f"Expected at least one pixel but got {image_name(source)} of size {image.size}. Remedy: leave it out."
        )
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image), image_name(source))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bits(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    """(H, W) grey values of more than 8 bits, rescaled linearly to 0..255."""
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ValueError(f"Expected finite pixels but got nan or infinity in {name}. Remedy: replace those pixels.")
    low, high = float(exact.min()), float(exact.max())
    if values.dtype.kind != "f":
        if low < 0 or high > 65535:
            raise ValueError(
                f"Expected integer pixels in 0..65535 but got {low:.0f}..{high:.0f} in {name}. Remedy: rescale them."
            )
        low, high = 0.0, 65535.0
    return np.rint((exact - low) / max(high - low, np.finfo(np.float64).tiny) * 255).astype(np.uint8)
