"""Which part of a picture a model sees after its image processor has resized and cropped it."""

from __future__ import annotations

from typing import Any

from PIL import Image

from m2ib_lightning.types import Box

LONGEST = 8
"""Pictures longer than this times their width are cut before they are resized, which else takes gigabytes."""


def view_of(processor: Any, width: int, height: int) -> Box:
    """The box that a Hugging Face image processor keeps, in fractions of the picture's width and height.

    Follows the processor's own order: resize (shortest edge, or to a given size), then crop around the centre. A crop
    larger than the picture pads it, and the box then reaches beyond 0..1.

    Args:
        processor: Anything with `do_resize`, `size`, `do_center_crop` and `crop_size`.
        width: The width of the picture in pixels.
        height: The height of the picture in pixels.

    Example:
        >>> from types import SimpleNamespace as N
        >>> square = N(do_resize=True, size={"shortest_edge": 10}, do_center_crop=True,
        ...            crop_size={"height": 10, "width": 10})
        >>> view_of(square, 40, 20)
        (0.25, 0.0, 0.75, 1.0)
    """
    new_width, new_height = width, height
    if getattr(processor, "do_resize", False):
        size = processor.size
        short = _get(size, "shortest_edge")
        if short:
            # int() as transformers does, which rounds the long side down.
            new_width = short if width <= height else int(short * width / height)
            new_height = short if height <= width else int(short * height / width)
        else:
            new_width, new_height = _get(size, "width"), _get(size, "height")
    if not getattr(processor, "do_center_crop", False):
        return (0.0, 0.0, 1.0, 1.0)
    crop_width, crop_height = _get(processor.crop_size, "width"), _get(processor.crop_size, "height")
    left, top = (new_width - crop_width) // 2, (new_height - crop_height) // 2
    return (
        left / new_width,
        top / new_height,
        (left + crop_width) / new_width,
        (top + crop_height) / new_height,
    )


def trim(image: Image.Image, processor: Any) -> tuple[Image.Image, Box]:
    """The middle of a picture that is extremely long, where the processor would crop the rest away after resizing.

    Returns:
        The picture, and the box of it that was kept, in fractions.
    """
    short, long = sorted(image.size)
    if long <= LONGEST * short or not getattr(processor, "do_center_crop", False):
        return image, (0.0, 0.0, 1.0, 1.0)
    # An even number is cut away, so that the middle stays the middle.
    cut = (long - LONGEST * short) // 2
    width, height = image.size
    box = (cut, 0, width - cut, height) if width > height else (0, cut, width, height - cut)
    return image.crop(box), (box[0] / width, box[1] / height, box[2] / width, box[3] / height)


def crop_to_ratio(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, Box]:
    """The largest part around the centre of a picture that has the proportions of a size (height, width).

    Returns:
        The part, and the box of it that was kept, in fractions.

    Example:
        >>> crop_to_ratio(Image.new("RGB", (40, 20)), (10, 10))[1]
        (0.25, 0.0, 0.75, 1.0)
    """
    width, height = image.size
    scale = min(width / size[1], height / size[0])
    kept_width, kept_height = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    box = (left, top, left + kept_width, top + kept_height)
    return image.crop(box), (box[0] / width, box[1] / height, box[2] / width, box[3] / height)


def output_size(processor: Any) -> tuple[int, int] | None:
    """(H, W) of what a Hugging Face image processor gives, or None if that depends on the picture."""
    if getattr(processor, "do_center_crop", False):
        size = processor.crop_size
    elif getattr(processor, "do_resize", False):
        size = processor.size
    else:
        return None
    height, width = _get(size, "height"), _get(size, "width")
    return (height, width) if height and width else None


def within(outer: Box, inner: Box) -> Box:
    """A box given in fractions of another box, in fractions of what that one is given in."""
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    return (
        outer[0] + inner[0] * width,
        outer[1] + inner[1] * height,
        outer[0] + inner[2] * width,
        outer[1] + inner[3] * height,
    )


def _get(size: Any, key: str) -> Any:
    return size.get(key) if isinstance(size, dict) else getattr(size, key, None)
