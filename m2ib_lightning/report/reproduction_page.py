"""The page of a reproduced table: ours, published and the difference, and below it the whole comparison."""

from __future__ import annotations

import csv
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from m2ib_lightning.evaluation import Comparison, Interval, interval
from m2ib_lightning.evaluation.published import PublishedTable
from m2ib_lightning.files import replacing
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.report.comparison import mean_text, range_text, row_name
from m2ib_lightning.report.comparison_page import Example, save_comparison_page

NOTE = (
    "Ours are means over pairs with 95 % bootstrap intervals; a difference is ours minus the published value, and "
    "green where its interval holds zero. Pairs are not those of the paper unless it says which they were."
)


class Cell(NamedTuple):
    """One value beside the published one.

    Attributes:
        method: The label of the method.
        metric: The metric that was measured.
        protocol: How inputs were masked.
        ours: Over the pairs, None where the method was not run.
        published: As printed, None where it is not known.
    """

    method: str
    metric: PairMetric
    protocol: str
    ours: Interval | None
    published: float | None

    @property
    def difference(self) -> Interval | None:
        """Ours minus the published value, None where either is missing."""
        if self.ours is None or self.published is None or math.isnan(self.ours.mean):
            return None
        mean, low, high = (end - self.published for end in self.ours[:3])
        return Interval(mean, low, high, self.ours.pairs)


def cells(table: PublishedTable, found: Mapping[str, Comparison]) -> list[Cell]:
    """Every method and metric under every protocol; a published value stands under the first protocol.

    Args:
        table: The table as it was published.
        found: What was measured, by protocol.
    """
    made = []
    for protocol, comparison in found.items():
        for metric in comparison.metrics:
            for method in dict.fromkeys([*table.published, *comparison.methods]):
                run = method in comparison.methods
                ours = interval(comparison.values(method, metric.name)) if run else None
                printed = table.published.get(method, {}).get(metric.name) if protocol == table.protocols[0] else None
                if ours is not None or printed is not None:
                    made.append(Cell(method, metric, protocol, ours, printed))
    return made


def write_cells(rows: Sequence[Cell], path: Path) -> None:
    """Write the same as a CSV file, to hand back."""
    heads = ("method", "metric", "protocol", "pairs", "ours", "low", "high", "published", "difference")
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        for cell in rows:
            ours, off = cell.ours, cell.difference
            measured = (ours.pairs, ours.mean, ours.low, ours.high) if ours else ("", "", "", "")
            known = (cell.published, off and off.mean)
            writer.writerow([cell.method, cell.metric.name, cell.protocol, *measured, *known])


def save_reproduction_page(
    table: PublishedTable,
    found: Mapping[str, Comparison],
    path: Path,
    caption: str,
    examples: Sequence[Example],
    passed_over: Sequence[str] = (),
) -> None:
    """Write the page of a table that was measured again.

    Args:
        table: The table as it was published.
        found: What was measured, by protocol; the last one is shown whole.
        path: Where the page is written.
        caption: Says what was measured: model, pairs and their hashes.
        examples: The pairs that are shown at the end.
        passed_over: Why pairs were left out, a line each.
    """
    first = f"<p>{html.escape(table.paper)}. {html.escape(table.source)}</p>"
    held_against = [cell for cell in cells(table, found) if cell.protocol == table.protocols[0]]
    why = "".join(f"<li>{html.escape(reason)}" for reason in table.why)
    left = "".join(
        f"<p class=note>{len(passed_over)} pairs could not be read; the first: {html.escape(said)}</p>"
        for said in passed_over[:1]
    )
    above = [
        f"{first}<p class=note>{NOTE}</p>{_rows(held_against)}",
        f"<h3>Before comparing</h3><ul>{why}</ul>",
        left,
        f"<h2>Every method, {html.escape(table.protocols[-1])} protocol</h2>",
    ]
    last = list(found.values())[-1]
    shown = next(method for method in last.methods if method not in last.controls)
    save_comparison_page(last, path, shown, caption, examples, above, table.title)


def _rows(rows: Sequence[Cell]) -> str:
    """A table with a row for each value."""
    lines = []
    for cell in rows:
        ours, off = cell.ours, cell.difference
        style = "" if off is None else "win" if off.low <= 0 <= off.high else "lose"
        shown = f"{mean_text(ours)} <small>{range_text(ours)}</small>" if ours else "not run"
        printed = "–" if cell.published is None else f"{cell.published:g}"
        differs = f"{mean_text(off, '+')} <small>{range_text(off)}</small>" if off else "–"
        lines.append(
            f"<tr><td>{html.escape(row_name(cell.metric))}, {html.escape(cell.protocol)}<td>{html.escape(cell.method)}"
            f"<td>{shown}<td>{printed}<td class='{style}'>{differs}"
        )
    heads = "<th>metric<th>method<th>ours<th>published<th>difference"
    return f"<div class=scroll tabindex=0><table><tr>{heads}{''.join(lines)}</table></div>"
