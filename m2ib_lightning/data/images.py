"""Pictures of any kind as upright RGB, and a quick test that they can be read at all."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from m2ib_lightning.data.dicom import read_dicom
from m2ib_lightning.errors import MissingExtra


class StoredImage(NamedTuple):
    """The bytes of an image file that lies in another file.

    Attributes:
        name: What to call it, like a path: "shard-3.tar/cat.jpg".
        data: The bytes of the file.
    """

    name: str
    data: bytes


ImageLike = str | Path | Image.Image
"""A path, or a picture in memory."""

ImageSource = ImageLike | StoredImage
"""A path, a picture in memory, or an image file in memory."""

MAX_PIXELS = 50_000_000
"""The most pixels that a file is decoded to unless the caller says otherwise; 200 MB of memory, and some copies."""

SMALLEST = 14
"""Pixels to a side below which a picture is less than a patch of most models."""

LONGEST_SIDE = 10
"""How many times longer than the other a side may be before a model sees little of it."""

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""

DICOM = (".dcm", ".dicom")
"""Suffixes of files that need pydicom."""


class Unreadable(ValueError):
    """A picture cannot be read; the message names it, says why, and the remedy."""


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as 8-bit RGB, turned upright by its EXIF orientation; always a new picture.

    Transparent parts are shown on white. Of a file with several frames the first is taken. More than 8 bits are
    rescaled linearly: integers (modes "I" and "I;16") from 0..65535 to 0..255 whatever values occur, so that pictures
    stay comparable; floats (mode "F"), which have no agreed range, from their own smallest and largest value. A float
    picture of one value is black. DICOM files (`.dcm`) are shown as their window says; see `read_dicom`. A picture of
    one colour, of few pixels or of extreme proportions is read with a warning.

    Raises:
        RuntimeError: A DICOM file is given and pydicom is not installed.
        ValueError: The file is missing, a folder, empty, cut short or no picture, or a pixel is not finite or outside
            of the 16-bit range.
        TypeError: The source is neither a path nor a picture.

    Example:
        >>> load_image(Image.new("LA", (3, 2), (0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    image = _to_rgb(_decode(source, max_pixels), source)
    if said := _doubt(image):
        warnings.warn(said.format(image_name(source)), stacklevel=2)
    return image


def _doubt(image: Image.Image) -> str | None:
    """What of a picture makes a map of it say little; {} stands for its name."""
    width, height = image.size
    if len(image.getcolors(1) or ()) == 1:
        return (
            "Expected a picture of something but {} is of one colour. "
            "Remedy: look at it; where all is transparent, white is shown."
        )
    if min(width, height) < SMALLEST:
        return f"Expected {SMALLEST} pixels or more to a side but {{}} has {width} x {height}. Remedy: a larger copy."
    if max(width, height) > LONGEST_SIDE * min(width, height):
        return (
            f"Expected sides of at most {LONGEST_SIDE} to 1 but {{}} has {width} x {height}: a model reads a part "
            "of it, or all of it squeezed. Remedy: cut out what matters."
        )
    return None


def check_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> None:
    """Raise what `load_image` would, for less work: JPEG files are decoded at an eighth of their size."""
    _to_rgb(_decode(source, max_pixels, reduced=True), source)


def fingerprint(source: ImageSource) -> str:
    """What tells whether a file is still the same: "size-time-hash", the time of a file in nanoseconds; "" in memory.

    Raises:
        OSError: It cannot be read.
    """
    if isinstance(source, Image.Image):
        return ""
    if isinstance(source, StoredImage):
        return f"{len(source.data)}--{hashlib.blake2b(source.data, digest_size=16).hexdigest()}"
    with open(source, "rb") as file:
        found, hashed = os.fstat(file.fileno()), hashlib.blake2b(digest_size=16)
        while some := file.read(1 << 20):
            hashed.update(some)
    return f"{found.st_size}-{found.st_mtime_ns}-{hashed.hexdigest()}"


def is_same_image(source: ImageSource, before: str) -> bool:
    """Whether an image has the fingerprint of before; a file of the same size and time is not read again.

    True where nothing can be said: the picture is in memory, or the file is not there any more.
    """
    try:
        if not before or isinstance(source, Image.Image):
            return True
        if not isinstance(source, StoredImage):
            found = os.stat(source)
            if not stat.S_ISREG(found.st_mode) or before.startswith(f"{found.st_size}-{found.st_mtime_ns}-"):
                return True
        return fingerprint(source).rpartition("-")[2] == before.rpartition("-")[2]
    except (OSError, ValueError):
        return True


def image_name(source: ImageSource) -> str:
    """What to call a picture in messages: its path, if it has one."""
    if isinstance(source, StoredImage):
        return source.name
    return "an image in memory" if isinstance(source, Image.Image) else str(source)


def stored_shape(source: ImageSource) -> tuple[int, tuple[int, int] | None]:
    """How a picture lies in its file: the EXIF orientation that `load_image` undoes (1 to 8, 1 for none), and its size.

    Returns:
        The orientation, and (width, height) before it is undone; None where that is not asked for (DICOM).
    """
    if is_dicom(source):
        return 1, None
    if isinstance(source, Image.Image):
        return _orientation(source), source.size
    try:
        with _open(source) as image:
            return _orientation(image), image.size
    except Exception:
        return 1, None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as load_image, which shows a picture with a broken EXIF block as it is stored
        return 1


def open_stored(source: str | Path | StoredImage, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a file in its own mode and as it is stored, not turned.

    Raises:
        ValueError: See `load_image`.
    """
    try:
        with _open(source) as image:
            _check_size(image.size, image_name(source), max_pixels)
            image.load()
            return image
    except Exception as problem:
        raise _fault(source, problem) from problem


def is_dicom(source: ImageSource) -> bool:
    """Whether the name of a picture is that of a DICOM file."""
    return not isinstance(source, Image.Image) and image_name(source).lower().endswith(DICOM)


def _file(source: str | Path | StoredImage) -> str | Path | io.BytesIO:
    """What decoders open. Opening a pipe would wait for ever, and a device has no end.

    Raises:
        ValueError: It is neither a regular file nor a folder, nor missing.
        OSError: It is missing.
    """
    if isinstance(source, StoredImage):
        return io.BytesIO(source.data)
    mode = os.stat(source).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise Unreadable(
            f"Expected an image file but got {source}, a pipe, a socket or a device. Remedy: give a regular file."
        )
    return source


@contextmanager
def _open(source: str | Path | StoredImage) -> Iterator[Image.Image]:
    """A picture of which only the header is read. Its size is ours to judge: Pillow's own limit is off meanwhile."""
    file, limit = _file(source), Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None
        image = Image.open(file)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _decode(source: ImageSource, max_pixels: int, reduced: bool = False) -> Image.Image:
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
            return read_dicom(_file(source), lambda size: _check_size(size, image_name(source), max_pixels))
        with _open(source) as image:
            wanted = (1, 1) if reduced else _reduced(image.size, max_pixels)
            if wanted != image.size:
                image.draft(None, wanted)  # which does nothing but for JPEG
            _check_size(image.size, image_name(source), max_pixels)
            return ImageOps.exif_transpose(image)
    except MissingExtra:
        raise
    except Exception as problem:  # decoders of broken files raise OSError, SyntaxError, struct.error and others
        raise _fault(source, problem) from problem


def _reduced(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """The size halved until it has at most so many pixels, at most three times, which is what JPEG decoders can do.

    >>> _reduced((8000, 6000), 50_000_000), _reduced((8000, 6000), 12_000_000), _reduced((8001, 6000), 12_000_000)
    ((8000, 6000), (4000, 3000), (2000, 1500))
    """
    width, height = size
    for scale in (1, 2, 4, 8):
        if -(-width // scale) * -(-height // scale) <= max_pixels:  # decoders round up
            break
    return max(1, width // scale), max(1, height // scale)


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise Unreadable(
            f"Expected at most {max_pixels:,} pixels but got {size[0]} x {size[1]} in {name}. "
            "Remedy: make the picture smaller, or raise `max_pixels` (--data.max_pixels)."
        )


def _fault(source: ImageSource, problem: Exception) -> Unreadable:
    """What is wrong with a picture, and the remedy."""
    return problem if isinstance(problem, Unreadable) else Unreadable(f"Expected {_reason(source, problem)}")


def _reason(source: ImageSource, problem: Exception) -> str:
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
        raise Unreadable(
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
