"""A result as a piece of HTML, for notebooks and loggers, and numbers and texts shortened for people."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

if TYPE_CHECKING:
    from m2ib_lightning.attribution import Attribution

SIDE = 320
"""The longer side of the picture in a notebook, in pixels."""

GREY = "color:#6b6b6b"

Words = Sequence[tuple[str, float, float]]
"""Words of a text: (word, value, mean of lambda_ or nan)."""


def attribution_html(a: Attribution) -> str:
    """The map over the picture, on grey where that cannot be read, and the words with their values.

    Args:
        a: What to show.
    """
    parts = [f"<div style='font:15px sans-serif;color:#1a1a1a;margin-bottom:6px'><b>{escape(a.text)}</b></div>"]
    if a.image_map is not None:
        file = io.BytesIO()
        a.overlay(_picture(a)).save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        parts.append(f"<img alt='where in the image the evidence lies' src='data:image/png;base64,{data}'>")
    if a.text_map is not None:
        words = a.words()
        top = max((value for _, value in words), default=0.0)
        parts.append(words_html([(word, value, math.nan) for word, value in words], top, unit=a.unit))
    return "".join(parts) + f"<div style='font:12px sans-serif;color:#6b6b6b'>{escape(repr(a))}</div>"


def words_html(words: Words, top: float, title: str = "", unit: str = "nats") -> str:
    """The text with every word on a shaded ground, its value below it and its mask value where the mouse points.

    Args:
        words: The words in the text's order.
        top: The value of the darkest shade.
        title: What stands above, if anything.
        unit: The unit of the values.
    """
    digits = decimals(*(value for _, value, _ in words))
    head = f"<div style='{GREY};margin-bottom:6px'>{escape(title)}</div>" if title else ""
    chips = "".join(_chip(word, f"{value:{digits}}", _shade(value, top), mask) for word, value, mask in words)
    end = f"<small style='{GREY}'> {escape(unit)} per word</small>"
    return f"<div style='font:16px sans-serif;color:#1a1a1a'>{head}{chips}{end}</div>"


def _chip(word: str, value: str, shade: float, mask: float) -> str:
    """A word on its ground, the value below it."""
    hint = f" title='mask value {mask:.2f}'" if mask == mask else ""
    ground = f"padding:2px 6px;border:1px solid #d0d0d0;border-radius:5px;background:rgba(245,132,60,{shade:.2f})"
    return (
        f"<span style='display:inline-block;text-align:center;margin:0 4px 6px 0'{hint}>"
        f"<span style='display:block;{ground}'>{escape(word)}</span><small style='{GREY}'>{value}</small></span>"
    )


def _shade(value: float, top: float) -> float:
    """How dark the ground of a word is, in 0..1."""
    return min(1.0, max(0.0, value) / top) ** 0.5 if top > 0 else 0.0


def _picture(a: Attribution) -> Image.Image:
    """The picture of a pair from its file, grey and of the map's proportions where there is none."""
    try:
        with Image.open(a.source) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError):
        rows, columns = a.image_map.shape if a.image_map is not None else (1, 1)
        image = Image.new("RGB", (SIDE * columns // max(rows, columns), SIDE * rows // max(rows, columns)), "grey")
    return ImageOps.contain(image, (SIDE, SIDE))


def decimals(*values: float) -> str:
    """The format that gives the largest of the values three digits, and all as many decimals.

    >>> [f"{value:{decimals(60.04, 6.12)}}" for value in (60.04, 6.12)], decimals(283.1), decimals(0.00012)
    (['60.0', '6.1'], '.0f', '.1e')
    """
    top = max((abs(value) for value in values), default=0.0)
    if top == 0 or not math.isfinite(top):
        return ".0f"
    digits = 2 - math.floor(math.log10(top))
    return f".{max(0, digits)}f" if -3 < digits < 5 else ".1e"


def shorten(text: str, length: int) -> str:
    """At most `length` characters of the text, with an ellipsis for what is cut from its middle.

    >>> shorten("holidays/2024/IMG_1234.jpg", 15)
    'holiday…234.jpg'
    """
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]
