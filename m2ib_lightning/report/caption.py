"""The caption of a pair on a page, its words shaded by their values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.display import decimals
from m2ib_lightning.report.page import GREY, PALE, Page, Scale, fit, measure

TEXT_SIZE = 11.0
COLOURS = ("#ffffff", "#fdc692", "#f5843c")
SCALE = 110.0  # length of the scale, points
CHIP = 20.0  # height of a shaded word
LINE = CHIP + 18


class Chip(NamedTuple):
    """A shaded piece of text and its place: the line, and the left edge and width in points."""

    text: str
    value: float
    label: str
    line: int
    x: float
    width: float


def place_words(words: list[tuple[str, float]], page_width: float) -> list[Chip]:
    """The words in lines no wider than the page; a word wider than that goes on in the next line."""
    chips: list[Chip] = []
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
            chips.append(Chip(piece, value, label, line, x, width))
            x += width + 3
    return chips


def shaded_caption(page: Page, a: Attribution) -> None:
    """Add the caption with every word shaded by its value and the value below it."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import FancyBboxPatch

    words = a.words()
    scale = Scale(
        LinearSegmentedColormap.from_list("words", COLOURS),
        max((v for _, v in words), default=0.0),
        f"{a.unit} per word",
    )
    chips = place_words(words, page.width)
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


def plain_caption(page: Page, a: Attribution) -> None:
    """Add the caption without any values."""
    page.write("text", 8, GREY)
    page.y -= 3
    line = ""
    for word in [*a.text.split(), ""]:
        longer = f"{line} {word}".strip()
        if word and measure(longer, TEXT_SIZE) <= page.width:
            line = longer
        else:
            if line:
                page.write(line, TEXT_SIZE)
            line = word
