"""The caption of a pair on a page, its words shaded by their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.display import Chip, chips, decimals, ground, on_no_word, scale_top
from m2ib_lightning.report.page import GREY, PALE, Page, Scale, fit, measure, wrap
from m2ib_lightning.report.words import Placed, place
from m2ib_lightning.verdict import is_doubtful

TEXT_SIZE = 11.0
SCALE = 110.0  # length of the scale, points
CHIP = 20.0  # height of a shaded word
LINE = CHIP + 18


def place_words(words: Sequence[Chip], page_width: float) -> list[Placed]:
    """The words in lines no wider than the page; a word wider than that goes on in the next line."""
    return place(_pieces(words, page_width), page_width, gap=3)


def _pieces(words: Sequence[Chip], page_width: float) -> Iterator[tuple[Chip, float]]:
    """Each word, or what of it fits into a line, with its width in points; the label stands below the first piece."""
    for chip in words:
        step = max(1, int(len(chip.word) * (page_width - 8) / max(1.0, measure(chip.word, TEXT_SIZE))))
        for start in range(0, len(chip.word), step):
            piece = Chip(chip.word[start : start + step], chip.label if start == 0 else "", chip.shade)
            yield piece, max(measure(piece.word, TEXT_SIZE) + 8, measure(piece.label, 7) + 4)


def shaded_caption(page: Page, a: Attribution) -> None:
    """Add the caption with every word shaded by its value and the value below it, in greys where that is in doubt."""
    words, doubtful = a.words(), is_doubtful(a, "text")
    placed = place_words(chips(words, a.unit), page.width)
    page.write("text attribution" + ", the end of the text was cut" * a.truncated, 8, GREY)
    page.y -= 3
    draw_words(page, placed, doubtful)
    _word_scale(page, max((value for _, value in words), default=0.0), a.unit, doubtful)
    _special_tokens(page, a)
    page.y -= 14


def draw_words(page: Page, placed: Sequence[Placed], doubtful: bool = False) -> None:
    """Add words on their grounds, with their labels below."""
    from matplotlib.patches import FancyBboxPatch

    for chip, line, x, width in placed:
        lower, middle = page.y - line * LINE - CHIP, x + width / 2
        colour = [part / 255 for part in ground(chip.shade, doubtful)]
        style = "round,pad=0,rounding_size=3"
        page.axes.add_patch(
            FancyBboxPatch((x, lower), width, CHIP, style, facecolor=colour, edgecolor=PALE, linewidth=0.5)
        )
        page.text(middle, lower + 6.2, chip.word, TEXT_SIZE, ha="center")
        page.text(middle, lower - 9, chip.label, 7, GREY, ha="center")
    page.y -= (placed[-1].line + 1 if placed else 0) * LINE + 4


def _word_scale(page: Page, highest: float, unit: str, doubtful: bool) -> None:
    """The colours of the words, at the right."""
    from matplotlib.colors import ListedColormap

    ramp = np.array([ground(share**0.5, doubtful) for share in np.linspace(0, 1, 256)]) / 255
    scale = Scale(ListedColormap(ramp), scale_top(highest, unit), f"{unit} per word")
    bar = page.scale_bar(page.width - SCALE - 8, page.y, (SCALE, 6), scale)
    ticks = [0, scale.top] if scale.top > 0 else [0]
    bar.set_xticks(ticks, [f"{tick:{decimals(scale.top)}}" if tick else "0" for tick in ticks])
    page.text(page.width - SCALE - 14, page.y - 6, scale.label, 8, ha="right")


def _special_tokens(page: Page, a: Attribution) -> None:
    """The values that lie on no word, at the left of the scale."""
    if note := on_no_word(a):
        page.text(0, page.y - 6, fit(f"on no word: {note}", page.width - SCALE - 110, 7), 7, GREY)


def plain_caption(page: Page, a: Attribution) -> None:
    """Add the caption without any values."""
    page.write("text", 8, GREY)
    page.y -= 3
    for line in wrap(a.text, page.width, TEXT_SIZE):
        page.write(line, TEXT_SIZE)
