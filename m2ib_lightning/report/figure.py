"""One picture for one pair: the image, where in it the evidence lies, and the caption shaded word by word."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from m2ib_lightning.attribution import WHOLE, Attribution
from m2ib_lightning.report.page import GREY, INK, PALE, POINTS_PER_INCH, Page, Scale, decimals, fit, measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 250.0  # the longer side of a picture beside another, points
WIDE = 1.8  # pictures wider than this many times their height stand below each other
NARROW = 8.0  # and beyond this ratio they are stretched, to be seen at all
GAP = 14.0
BAR = 9.0
BAR_LABELS = 46.0
TEXT_SIZE = 11.0
SCALE = 110.0  # length of the scale of the words
CHIP = 20.0  # height of a shaded word
LINE = CHIP + 18
WORD_COLOURS = ("#ffffff", "#fdc692", "#f5843c")


def pair_figure(attribution: Attribution, image: Image.Image) -> Image.Image:
    """One RGB picture of what made an image and a text similar, for a paper or a slide.

    The image, the image with its map over it and the caption with every word shaded by the sum of its tokens, each
    with its scale in raw values. Negative values are shaded as 0 and printed as they are. What was not explained is
    shown without shading.

    Args:
        attribution: What to show.
        image: The picture that was explained, of any size and mode.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_draw(attribution, image))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_pair_figure(attribution: Attribution, image: Image.Image, path: str | Path) -> None:
    """Write the picture to a file; `.pdf` and `.svg` keep text and lines as vectors."""
    _draw(attribution, image).savefig(path)


def _draw(attribution: Attribution, image: Image.Image) -> Figure:
    size = _panel_size(image)
    explained = attribution.image_map is not None
    beside = explained and size[0] <= WIDE * size[1]
    row = size[0] * (2 if beside else 1) + (GAP if beside else 0) + (GAP + BAR + BAR_LABELS if explained else 0)
    page = Page(width=max(420.0, row))
    _header(page, attribution)
    _pictures(page, attribution, image, size, beside)
    if attribution.text_map is None:
        _plain_caption(page, attribution.text)
    else:
        _words(page, attribution)
    page.close()
    return page.figure


def _header(page: Page, a: Attribution) -> None:
    page.write(a.id, size=12, weight="bold")
    parts = [f"similarity {a.score:.3f}"]
    for modality, score in (("image", a.image_score), ("text", a.text_score)):
        if not math.isnan(score):
            parts.append(f"{score:.3f} through the {modality} bottleneck")
    if a.steps:
        reason = f" ({a.stop_reason.replace('_', ' ')})" if a.stop_reason else ""
        parts.append(f"{a.steps} step{'s' * (a.steps != 1)}{reason}")
    page.write("  ·  ".join(parts), size=8, colour=GREY)
    page.y -= 8


def _panel_size(image: Image.Image) -> tuple[float, float]:
    """(width, height) of a picture on the page."""
    ratio = min(NARROW, max(1 / NARROW, image.width / image.height))
    if ratio > WIDE:
        return 2 * PANEL, 2 * PANEL / ratio
    return (PANEL, PANEL / ratio) if ratio > 1 else (PANEL * ratio, PANEL)


def _pictures(page: Page, a: Attribution, image: Image.Image, size: tuple[float, float], beside: bool) -> None:
    width, height = size
    pixels = (round(width * page.dpi / POINTS_PER_INCH), round(height * page.dpi / POINTS_PER_INCH))
    shown = image.convert("RGB").resize(pixels, Image.Resampling.LANCZOS)
    page.text(0, page.y, "image", 8, GREY, va="top")
    page.picture(0, page.y - GAP, shown, size)
    if a.image_map is not None:
        x = width + GAP if beside else 0.0
        if not beside:
            page.y -= GAP + height + 8
        page.text(
            x, page.y, "image attribution" + ", dashed: what the model saw" * (a.view != WHOLE), 8, GREY, va="top"
        )
        page.picture(x, page.y - GAP, a.overlay(shown), size)
        _view(page, a, x, page.y - GAP, size)
        page.scale_bar(x + width + GAP * 0.6, page.y - GAP, (BAR, height), _image_scale(a))
    page.y -= GAP + height + 16


def _image_scale(a: Attribution) -> Scale:
    """The scale of the overlay, as it looks over a grey picture."""
    from matplotlib.colors import ListedColormap

    values = np.asarray(a.image_map)
    ramp = replace(a, image_map=np.linspace(0, 1, 256, dtype=np.float32)[None], view=WHOLE)
    colours = np.asarray(ramp.overlay(Image.new("RGB", (256, 1), "grey")))[0] / 255
    return Scale(ListedColormap(colours), float(values.max()), f"{a.unit} per patch")


def _view(page: Page, a: Attribution, x: float, y: float, size: tuple[float, float]) -> None:
    """Frame what the model saw, if that was not everything."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = a.view
    if a.view != WHOLE:
        corner = (x + left * size[0], y - bottom * size[1])
        sides = ((right - left) * size[0], (bottom - top) * size[1])
        page.axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="white", linewidth=0.8, linestyle="--"))


class _Chip(NamedTuple):
    """A shaded piece of text and its place: the line, and the left edge and width in points."""

    text: str
    value: float
    label: str
    line: int
    x: float
    width: float


def _chips(words: list[tuple[str, float]], page_width: float) -> list[_Chip]:
    """The words in lines no wider than the page; a word wider than that goes on in the next line."""
    chips: list[_Chip] = []
    line, x = 0, 0.0
    digits = decimals(*(value for _, value in words))
    for word, value in words:
        label = f"{value:{digits}}"
        step = max(1, int(len(word) * (page_width - 8) / max(1.0, measure(word, TEXT_SIZE))))
        for start in range(0, len(word), step):
            piece, label = word[start : start + step], label if start == 0 else ""
            width = min(page_width, max(measure(piece, TEXT_SIZE) + 8, measure(label, 7) + 4))
            if x > 0 and x + width > page_width:
                line, x = line + 1, 0.0
            chips.append(_Chip(piece, value, label, line, x, width))
            x += width + 3
    return chips


def _words(page: Page, a: Attribution) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import FancyBboxPatch

    words = a.words()
    scale = Scale(
        LinearSegmentedColormap.from_list("words", WORD_COLOURS),
        max((v for _, v in words), default=0.0),
        f"{a.unit} per word",
    )
    chips = _chips(words, page.width)
    page.write("text attribution" + ", the end of the text was cut" * a.truncated, 8, GREY)
    page.y -= 3
    for chip in chips:
        colour = scale.colours(max(0.0, chip.value) / scale.top if scale.top > 0 else 0.0)
        lower, middle = page.y - chip.line * LINE - CHIP, chip.x + chip.width / 2
        box = FancyBboxPatch(
            (chip.x, lower),
            chip.width,
            CHIP,
            boxstyle="round,pad=0,rounding_size=3",
            facecolor=colour,
            edgecolor=PALE,
            linewidth=0.5,
        )
        page.axes.add_patch(box)
        page.text(middle, lower + 6.2, chip.text, TEXT_SIZE, ha="center")
        page.text(middle, lower - 9, chip.label, 7, GREY, ha="center")
    page.y -= (chips[-1].line + 1 if chips else 0) * LINE + 4
    _word_scale(page, scale)
    _special_tokens(page, a)
    page.y -= 14


def _word_scale(page: Page, scale: Scale) -> None:
    """The colours of the words, at the right."""
    bar = page.scale_bar(page.width - SCALE - 8, page.y, (SCALE, 6), scale)
    ticks = [0, scale.top] if scale.top > 0 else [0]
    bar.set_xticks(ticks, [f"{tick:{decimals(scale.top)}}" if tick else "0" for tick in ticks])
    page.text(page.width - SCALE - 14, page.y - 6, scale.label, 8, ha="right")


def _special_tokens(page: Page, a: Attribution) -> None:
    """The values that lie on no word, at the left of the scale."""
    values = np.asarray(a.text_map).tolist()
    special = [(token, value) for token, s, value in zip(a.tokens, a.special, values, strict=True) if s and value]
    if special:
        digits = decimals(*(value for _, value in special))
        note = "on no word: " + ", ".join(f"{token} {value:{digits}}" for token, value in special)
        page.text(0, page.y - 6, fit(note, page.width - SCALE - 110, 7), 7, GREY)


def _plain_caption(page: Page, text: str) -> None:
    page.write("text", 8, GREY)
    line = ""
    for word in [*text.split(), ""]:
        longer = f"{line} {word}".strip()
        if word and measure(longer, TEXT_SIZE) <= page.width:
            line = longer
        else:
            page.write(line, TEXT_SIZE)
            line = word
