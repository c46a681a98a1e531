"""Several methods side by side, as tables for the terminal: means, paired differences, intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from m2ib_lightning.evaluation.bootstrap import Interval, interval, paired_interval
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.metrics import PairMetric

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


class Column(NamedTuple):
    """A column of a table before it is known which table it goes to.

    Attributes:
        header: Its lines.
        cells: One for each row.
    """

    header: str
    cells: Sequence[str | Text]


def scores_tables(comparison: Comparison, width: int | None = None) -> list[Table]:
    """A row per metric and a column per method, for few methods: the mean and its 95 % bootstrap interval.

    Args:
        comparison: What was found.
        width: Of the terminal, in characters; methods that do not fit go into further tables.
    """
    metrics = measured_metrics(comparison)
    found = {metric.name: means(comparison, metric) for metric in metrics}
    best = {metric.name: best_of(found[metric.name], metric) for metric in metrics}
    names = [f"{m.name} {arrow(m)}" + (f" ({m.unit})" if m.unit else "") for m in metrics]
    columns = []
    for method in comparison.methods:
        cells: list[str | Text] = [
            _cell(of[method], "bold" if best[name] == method else "", between=" ") for name, of in found.items()
        ]
        columns.append(Column(method, [*cells, f"{comparison.values(method, 'seconds').mean():.3f}"]))
    return _tables(Column("mean (95 % interval)", [*names, "seconds per pair ↓"]), columns, comparison, width)


def comparison_tables(comparison: Comparison, width: int | None = None) -> list[Table]:
    """For image and text a table with a row per method and a column per metric: the mean, below it its interval.

    The best mean of a column is bold; intervals are 95 % bootstrap intervals over pairs.

    Args:
        comparison: What was found.
        width: Of the terminal, in characters; metrics that do not fit go into further tables.
    """
    tables = []
    seconds = [f"{comparison.values(method, 'seconds').mean():.3f}" for method in comparison.methods]
    for modality, metrics in by_modality(comparison).items():
        columns = []
        for metric in metrics:
            found = means(comparison, metric)
            best = best_of(found, metric)
            cells = [_cell(of, "bold" if method == best else "") for method, of in found.items()]
            columns.append(Column(header(metric), cells))
        columns.append(Column("seconds\nper pair", seconds))
        names = Column(f"{modality}\nmean, 95 % interval", comparison.methods)
        tables += _tables(names, columns, comparison, width)
    return tables


def difference_tables(comparison: Comparison, against: str, width: int | None = None) -> list[Table]:
    """For image and text a table with a row per other method: `against` minus the other, over the same pairs.

    Green where the interval says that `against` is better, red where it is worse.

    Args:
        comparison: What was found.
        against: The label of a method.
        width: Of the terminal, in characters; metrics that do not fit go into further tables.
    """
    tables = []
    others = [method for method in comparison.methods if method != against]
    for modality, metrics in by_modality(comparison).items():
        columns = []
        for metric in metrics:
            found = [difference(comparison, metric, against, method) for method in others]
            styles = [{1: "green", -1: "red", 0: ""}[verdict(of, metric)] for of in found]
            cells = [_cell(of, style, sign="+") for of, style in zip(found, styles, strict=True)]
            columns.append(Column(header(metric), cells))
        tables += _tables(Column(f"{modality}\n{against} minus", others), columns, comparison, width)
    return tables


def by_modality(comparison: Comparison) -> dict[str, list[PairMetric]]:
    """The metrics that have a value for some pair, of the image and of the text."""
    measured = measured_metrics(comparison)
    groups = {modality: [m for m in measured if m.modality == modality] for modality in ("image", "text")}
    return {modality: metrics for modality, metrics in groups.items() if metrics}


def header(metric: PairMetric) -> str:
    """The class's name, a line for each of its words, with direction and unit."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[a-z])(?=AU|IoU)", "\n", type(metric).__name__)
    return f"{words} {arrow(metric)}" + f"\n{metric.unit}" * bool(metric.unit)


def _tables(names: Column, columns: Sequence[Column], comparison: Comparison, width: int | None) -> list[Table]:
    """As few tables as hold all columns, each with the names of the rows and at most `width` characters wide."""
    from rich.console import Console

    groups: list[list[Column]] = [[]]
    for column in columns:
        wider = _table([names, *groups[-1], column])
        if width is not None and groups[-1] and Console(width=10_000).measure(wider).maximum > width:
            groups.append([])
        groups[-1].append(column)
    tables = [_table([names, *group]) for group in groups]
    for table in tables:
        table.caption = comparison.protocol.caption
    return tables


def _table(columns: Sequence[Column]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column.header, justify="right" if index else "left", no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _cell(found: Interval, style: str, sign: str = "", between: str = "\n") -> Text:
    from rich.text import Text

    cell = Text(mean_text(found, sign), style=style)
    cell.append(between + range_text(found), style="not bold dim")
    return cell


def means(comparison: Comparison, metric: PairMetric) -> dict[str, Interval]:
    """Of each method, the mean of a metric over pairs with its interval."""
    return {m: interval(comparison.values(m, metric.name)) for m in comparison.methods}


def difference(comparison: Comparison, metric: PairMetric, first: str, second: str) -> Interval:
    """The mean difference of two methods over the same pairs."""
    a, b = comparison.values(first, metric.name), comparison.values(second, metric.name)
    return paired_interval(a, b.reindex(a.index))


def best_of(found: dict[str, Interval], metric: PairMetric) -> str:
    """The method with the best mean, "" if none has one."""
    known = {m: i.mean for m, i in found.items() if not math.isnan(i.mean)}
    pick = max if metric.higher_is_better else min
    return pick(known, key=lambda m: known[m]) if known else ""


def verdict(found: Interval, metric: PairMetric) -> int:
    """1 where a difference's interval is on the better side of zero, -1 on the worse, 0 where it holds zero."""
    sign = 1 if metric.higher_is_better else -1
    if math.isnan(found.mean) or found.low <= 0 <= found.high:
        return 0
    return sign if found.low > 0 else -sign


def measured_metrics(comparison: Comparison) -> list[PairMetric]:
    """The metrics that have a value for some pair."""
    return [m for m in comparison.metrics if comparison.frame[m.name].notna().any()]


def arrow(metric: PairMetric) -> str:
    """The direction in which a metric is better."""
    return "↑" if metric.higher_is_better else "↓"


def mean_text(i: Interval, sign: str = "") -> str:
    """The mean with three digits, a dash if there is none."""
    return "–" if math.isnan(i.mean) else _number(i.mean, 3, sign)


def range_text(i: Interval) -> str:
    """The ends of the interval."""
    return "" if math.isnan(i.mean) else f"{_number(i.low, 2)}..{_number(i.high, 2)}"


def _number(value: float, digits: int, sign: str = "") -> str:
    """So many digits, or all that are before the point: 0.12, 1.2, 100."""
    return f"{value:{sign}.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:{sign}.{digits}g}"
