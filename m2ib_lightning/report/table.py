"""Attributions as a table in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.display import decimals, shorten
from m2ib_lightning.printable import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

NONE = "–"


def plain_table(**options: Any) -> Table:
    """A table with a line below its header and nothing else drawn; the options are those of `rich.table.Table`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", **options)


def results_table(attributions: Iterable[Attribution]) -> Table:
    """One row of two lines for each pair, made for terminals of 80 columns and more.

    The pair and its text; the similarity of the clean pair and, below it, through the image and the text bottleneck;
    the region with the highest value, in words and as (x, y) in fractions of the picture's width and height; the two
    words with the highest values; the verdict on the maps and, below it, the steps made and why the fit ended. A dash
    stands for what was not explained.
    """
    from rich.text import Text

    shown = list(attributions)
    units = ", ".join(dict.fromkeys(a.unit for a in shown))
    table = plain_table(leading=1)
    table.add_column("pair\ntext")  # the only column that gives way in a narrow terminal
    for header in ("similarity\n→ image / text", "region\n(x, y)", f"words\n({units})", "verdict\nsteps, end"):
        table.add_column(header, no_wrap=True)
    for a in shown:
        pair = Text(_line(a.id), no_wrap=True, overflow="ellipsis")
        pair.append("\n" + _line(a.title), style="dim")
        table.add_row(pair, _similarity(a), _region(a), Text(printable(_words(a))), _verdict(a))
    return table


def place(x: float, y: float) -> str:
    """A place of a picture in words.

    >>> place(0.1, 0.2), place(0.5, 0.9), place(0.5, 0.5)
    ('upper left', 'lower middle', 'centre')
    """
    across = ("left", "middle", "right")[min(2, int(3 * x))]
    down = ("upper", "", "lower")[min(2, int(3 * y))]
    return "centre" if (down, across) == ("", "middle") else f"{down} {across}".strip()


def _similarity(a: Attribution) -> str:
    through = [NONE if math.isnan(score) else f"{score:.2f}" for score in (a.image_score, a.text_score)]
    return f"{a.score:.2f}" + (f"\n→ {through[0]} / {through[1]}" if through != [NONE, NONE] else "")


def _region(a: Attribution) -> str:
    if a.image_map is None:
        return NONE
    x, y = a.strongest_region()
    return f"{place(x, y)}\n({x:.2f}, {y:.2f})"


def _words(a: Attribution, count: int = 2, length: int = 12) -> str:
    if a.text_map is None:
        return NONE
    best = sorted(a.words(), key=lambda word: -word[1])[:count]
    digits = decimals(*(value for _, value in best))
    return "\n".join(f"{shorten(word, length)} {value:{digits}}" for word, value in best) or NONE


def _verdict(a: Attribution) -> Text:
    """The verdict in a colour, and how the fit ended below it."""
    from rich.text import Text

    said = Text(a.verdict.replace("_", " "), style="green" if a.verdict == "ok" else "yellow")
    return said.append(f"\n{a.steps}, {a.stop_reason.replace('_', ' ')}" * bool(a.steps), style="default")


def _line(text: str) -> str:
    return printable(" ".join(text.split()))
