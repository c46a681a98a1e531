"""How values are shown to people: colours with their scale, words on shaded grounds, numbers and texts shortened."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from einops import rearrange
from PIL import Image, ImageOps

from m2ib_lightning.inline import png_address
from m2ib_lightning.verdict import SENTENCES, headline, is_doubtful

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2ib_lightning.attribution import Attribution

NATS_FLOOR = 20.0
"""The least nats that the last colour of a scale stands for, so that half a nat does not look like two hundred.

Maps of scenes that the embedded model knows reach several times that, those of random weights do not.
"""

HEAT, DOUBTFUL = "inferno", "gray"
"""The colours of maps, and of those that should not be believed; matplotlib's names."""

SIDE = 320
"""The longer side of the picture in a notebook, in pixels."""

GREY = "color:#6b6b6b"
BANNER = "font:13px sans-serif;color:#7a2e00;background:#fff1e0;padding:6px 8px;margin-bottom:6px;max-width:640px"

Words = Sequence[tuple[str, float, float]]
"""Words of a text: (word, value, mean of lambda_ or nan)."""


def scale_top(highest: float, unit: str, times: float = 1.0) -> float:
    """The value of the last colour of a scale: the highest one, of nats at least `times` `NATS_FLOOR`.

    >>> scale_top(283.1, "nats"), scale_top(0.5, "nats"), scale_top(0.5, "nats", 0.2), scale_top(0.5, "cos")
    (283.1, 20.0, 4.0, 0.5)
    """
    return max(highest, times * NATS_FLOOR if unit == "nats" else 0.0)


@lru_cache(maxsize=8)
def colours(name: str) -> NDArray[np.float32]:
    """(256, 3) in [0, 1], the colours of one of matplotlib's maps."""
    from matplotlib import colormaps

    return np.asarray(colormaps[name](np.arange(256))[:, :3], np.float32)


def blend(picture: NDArray[np.float32], heat: NDArray[np.float32], name: str, opacity: float = 0.9) -> Image.Image:
    """A picture under a heat map, RGB; where the heat is 0 the picture is seen, where it is 1 the last colour.

    Args:
        picture: (H, W, 3) in [0, 1].
        heat: (H, W) in [0, 1].
        name: The name of the map of colours in matplotlib.
        opacity: How much the heat covers where it is highest, in 0..1.
    """
    index = (255 * heat).round().astype(np.uint8)
    weight = (opacity * np.sqrt(np.linspace(0, 1, 256, dtype=np.float32)))[index]
    mixed = picture + rearrange(weight, "h w -> h w 1") * (colours(name)[index] - picture)
    return Image.fromarray((255 * mixed + 0.5).astype(np.uint8))


class Chip(NamedTuple):
    """A word as it is drawn everywhere: on a shaded ground, its value below it.

    Attributes:
        word: The word as it stands in the text.
        label: The value as text, "" where there is none.
        shade: How dark its ground is, in 0..1: the square root of its share of the scale's top.
    """

    word: str
    label: str
    shade: float


def chips(words: Sequence[tuple[str, float]], unit: str, top: float | None = None) -> list[Chip]:
    """The words of a text as chips, with as many digits as their highest value needs, or `top` where it is given.

    Args:
        words: The words in the text's order with their values.
        unit: The unit of the values.
        top: The value of the darkest ground; by default the highest one, as `scale_top` has it.
    """
    values = [value for _, value in words]
    digits = decimals(*values if top is None else (top,))
    top = scale_top(max(values, default=0.0), unit) if top is None else top
    shades = [min(1.0, max(0.0, value) / top) ** 0.5 if top > 0 else 0.0 for value in values]
    return [Chip(word, f"{value:{digits}}", shade) for (word, value), shade in zip(words, shades, strict=True)]


def ground(shade: float, doubtful: bool = False) -> tuple[int, int, int]:
    """The colour of a word's ground, (red, green, blue) in 0..255: white to orange, or to grey where it is in doubt.

    >>> ground(0.0), ground(1.0), ground(1.0, doubtful=True)
    ((255, 255, 255), (245, 132, 60), (150, 150, 150))
    """
    red, green, blue = (round(255 + shade * (last - 255)) for last in ((150, 150, 150) if doubtful else (245, 132, 60)))
    return red, green, blue


def on_no_word(a: Attribution) -> str:
    """What lies on special tokens, in words: "<bos> 3.1, <eos> 283"; "" where nothing does."""
    if a.text_map is None:
        return ""
    found = [(t, v) for t, v, s in zip(a.tokens, a.text_map.tolist(), a.special, strict=True) if s and v]
    digits = decimals(*(value for _, value in found))
    return ", ".join(f"{token} {value:{digits}}" for token, value in found)


def attribution_html(a: Attribution) -> str:
    """The verdict, the map over the picture, on grey where that cannot be read, and the words with their values.

    Args:
        a: The result that is shown.
    """
    parts = [f"<div style='font:15px sans-serif;color:#1a1a1a;margin-bottom:6px'><b>{escape(a.title)}</b></div>"]
    if a.verdict != "ok":
        parts.append(f"<div style='{BANNER}'><b>{escape(headline(a))}.</b> {escape(SENTENCES[a.verdict])}</div>")
    if a.image_map is not None:
        data = png_address(a.overlay(_picture(a.source, *a.image_map.shape)))
        parts.append(f"<img alt='where in the image the evidence lies' src='{data}'>")
    if a.text_map is not None:
        words = [(word, value, math.nan) for word, value in a.words()]
        parts.append(words_html(words, unit=a.unit, doubtful=is_doubtful(a, "text")))
    return "".join(parts) + f"<div style='font:12px sans-serif;color:#6b6b6b'>{escape(repr(a))}</div>"


def words_html(
    words: Words, top: float | None = None, title: str = "", unit: str = "nats", doubtful: bool = False
) -> str:
    """The text with every word on a shaded ground, its value below it and its mask value where the mouse points.

    Args:
        words: The words in the text's order.
        top: The value of the darkest shade; by default as `chips` has it.
        title: What stands above, if anything.
        unit: The unit of the values.
        doubtful: Whether the values should not be believed; the shades are grey then.
    """
    head = f"<div style='{GREY};margin-bottom:6px'>{escape(title)}</div>" if title else ""
    shown = chips([(word, value) for word, value, _ in words], unit, top)
    body = "".join(_chip(chip, mask, doubtful) for chip, (_, _, mask) in zip(shown, words, strict=True))
    end = f"<small style='{GREY}'> {escape(unit)} per word</small>"
    return f"<div style='font:16px sans-serif;color:#1a1a1a'>{head}{body}{end}</div>"


def _chip(chip: Chip, mask: float, doubtful: bool) -> str:
    """A word on its ground, the value below it."""
    hint = f" title='mask value {mask:.2f}'" if mask == mask else ""
    style = f"padding:2px 6px;border:1px solid #d0d0d0;border-radius:5px;background:rgb{ground(chip.shade, doubtful)}"
    return (
        f"<span style='display:inline-block;text-align:center;margin:0 4px 6px 0'{hint}>"
        f"<span style='display:block;{style}'>{escape(chip.word)}</span>"
        f"<small style='{GREY}'>{chip.label}</small></span>"
    )


def _picture(source: str, rows: int, columns: int) -> Image.Image:
    """The picture of a pair from its file, grey and of the map's proportions where there is none."""
    try:
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError):
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


def cut(text: str, width: float, measure: Callable[[str], float]) -> str:
    """The text, its middle cut out where it is wider than `width`, as `measure` has it."""
    keep = len(text)
    while keep > 2 and measure(shorten(text, keep)) > width:
        keep = min(keep - 1, int(keep * 0.95))
    return shorten(text, keep)


def shorten(text: str, length: int) -> str:
    """At most `length` characters of the text, with an ellipsis for what is cut from its middle.

    >>> shorten("holidays/2024/IMG_1234.jpg", 15)
    'holiday…234.jpg'
    """
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]
