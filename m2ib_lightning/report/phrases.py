"""Which words mean which regions, drawn: a colour for each phrase, in the caption, over the picture and on its map."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning.attribution import Attribution, MapStyle, spread
from m2ib_lightning.parts import Phrase
from m2ib_lightning.report.page import GREY, INK, POINTS_PER_INCH, Page, fit, measure

FOR = ("#2f7fe0", "#f0a400", "#2aa85a", "#9a5fd6", "#13b4c6", "#b58a3c")
"""Colours of phrases that speak for their pair, in turn."""

AGAINST = "#e0322f"
"""That of phrases without which the pair is more similar."""

FAINT = 0.2
"""Twice the share of a map's highest value up to which a region is not drawn: what is everywhere is nowhere."""

GAP, ROW = 12.0, 3
SIZE, LINE = 13.0, 25.0


def phrase_colours(phrases: Sequence[Phrase]) -> list[str]:
    """A colour for each phrase, as #rrggbb: one of `FOR` in turn, or `AGAINST`."""
    speaking = [phrase for phrase in phrases if not phrase.against]
    return [
        AGAINST if phrase.against else FOR[next(i for i, p in enumerate(speaking) if p is phrase) % len(FOR)]
        for phrase in phrases
    ]


def coloured_regions(
    a: Attribution, image: Image.Image, phrases: Sequence[Phrase] | None = None, style: MapStyle = "smooth"
) -> Image.Image:
    """The picture in grey with the region of each phrase in its colour; RGB and of the same size.

    Args:
        a: A result that has `phrases`.
        image: The picture that was explained, or one of the same proportions.
        phrases: Those of them that are drawn; all by default.
        style: "smooth" or "patch", as in `Attribution.heatmap`.
    """
    colours = dict(zip(map(id, a.phrases), phrase_colours(a.phrases), strict=True))
    shown = a.phrases if phrases is None else phrases
    heats = rearrange([_heat(phrase, a, (image.height, image.width), style) for phrase in shown], "p h w -> p h w 1")
    inks = rearrange(np.array([_rgb(colours[id(phrase)]) for phrase in shown]), "p rgb -> p 1 1 rgb")
    mixed = (heats * inks).sum(0) / np.maximum(heats.sum(0), 1e-9)
    weight = 0.85 * (2 * heats.max(0) - FAINT).clip(0, 1)
    grey = 0.2 + 0.75 * np.asarray(image.convert("L").convert("RGB")) / 255  # pale, so that colours are the phrases'
    return Image.fromarray((255 * ((1 - weight) * grey + weight * mixed)).round().astype(np.uint8))


def phrase_pictures(page: Page, a: Attribution, image: Image.Image, style: MapStyle = "smooth") -> None:
    """Add the caption with its phrases coloured, a picture of all their regions, and one of each."""
    _caption(page, a)
    columns = min(ROW, len(a.phrases) + 1)
    width = min(240.0, (page.width - (columns - 1) * GAP) / columns)
    height = width * min(3.0, image.height / image.width)
    pixels = (round(width * page.dpi / POINTS_PER_INCH), round(height * page.dpi / POINTS_PER_INCH))
    small = image.convert("RGB").resize(pixels, Image.Resampling.LANCZOS)
    # What speaks against the pair is nowhere in it, and its map would lie over the others.
    found = [phrase for phrase in a.phrases if not phrase.against]
    panels = [("what is there", INK, coloured_regions(a, small, found or a.phrases, style))]
    for phrase, colour in zip(a.phrases, phrase_colours(a.phrases), strict=True):
        panels.append((_said(phrase), colour, coloured_regions(a, small, [phrase], style)))
    for index, (said, colour, picture) in enumerate(panels):
        column = index % ROW
        if index and not column:
            page.y -= height + 30
        x = column * (width + GAP)
        page.text(x, page.y, fit(said, width, 8, "bold"), 8, colour, "bold", va="top")
        page.picture(x, page.y - 13, picture, (width, height))
    page.y -= height + 34


def _said(phrase: Phrase) -> str:
    """A phrase, how much the similarity owes to it, and what speaks against its map."""
    speaks = "speaks against, " if phrase.against else ""
    doubt = "" if phrase.verdict == "ok" else f", {phrase.verdict.replace('_', ' ')}"
    return f"{phrase.text}: {speaks}{phrase.effect:+.2f}{doubt}"


def _caption(page: Page, a: Attribution) -> None:
    """The words of the text, those of a phrase on its colour; what speaks against is struck through."""
    from matplotlib.patches import Rectangle

    x, space = 0.0, measure("n", SIZE) * 0.6
    colours = phrase_colours(a.phrases)
    before = None
    for word in re.finditer(r"\S+", a.text):
        of = next((i for i, p in enumerate(a.phrases) if p.span[0] < word.end() and word.start() < p.span[1]), None)
        width = measure(word[0], SIZE, "bold" if of is not None else "normal") + (0 if of is None else 8)
        if of is not None and of == before:
            x -= 8  # words of one phrase are one piece
        if x and x + width > page.width:
            x, page.y, before = 0.0, page.y - LINE, None
        if of is not None:
            left = x - (space if of == before else 0)
            box = Rectangle((left, page.y - LINE + 6), x + width - left, LINE - 5, facecolor=colours[of], linewidth=0)
            page.axes.add_patch(box)
            if a.phrases[of].against:
                page.axes.plot([x + 3, x + width - 3], [page.y - 8.5] * 2, color="white", linewidth=1.2, zorder=5)
        page.text(
            x + width / 2, page.y - 13, word[0], SIZE, GREY if of is None else "white",
            "normal" if of is None else "bold", ha="center",
        )  # fmt: skip
        x, before = x + width + space, of
    page.y -= LINE + 8


def _heat(phrase: Phrase, a: Attribution, size: tuple[int, int], style: MapStyle) -> NDArray[np.float32]:
    """(H, W) in [0, 1]; nothing for a map that is not finite."""
    values = np.nan_to_num(phrase.image_map).clip(min=0)
    top = float(values.max())
    return spread((values / (top if top > 0 else 1)).astype(np.float32), a.view, size, style)


def _rgb(colour: str) -> list[float]:
    return [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
