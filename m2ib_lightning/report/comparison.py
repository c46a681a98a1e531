"""Several methods side by side, as tables for the terminal: means, paired differences, intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from m2ib_lightning.evaluation.bootstrap import Interval, interval, paired_interval
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.report.table import plain_table
from m2ib_lightning.types import MODALITIES, Modality

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


MARK = "✗"
"""Stands at a metric that a control wins."""

MARKED = f"{MARK} a control, which knows nothing of the pair, wins: the metric ranks nothing"
"""What the mark says."""


class Column(NamedTuple):
    """A column of a table before it is known which table it goes to.

    Attributes:
        header: What stands above, in one line or more.
        cells: What stands below, one for each row.
    """

    header: str
    cells: Sequence[str | Text]


def scores_tables(comparison: Comparison, width: int | None = None) -> list[Table]:
    """A row per metric and a column per method, for few methods: the mean and its 95 % bootstrap interval.

    Args:
        comparison: What was found for each method and pair.
        width: How wide the terminal is, in characters; methods that do not fit go into further tables.
    """
    metrics = [metric for group in groups(comparison) if not group.apart for metric in group.metrics]
    metrics += [metric for group in groups(comparison) if group.apart for metric in group.metrics]
    names = [row_name(m) + f" {MARK}" * bool(won_by_control(comparison, m)) for m in metrics]
    rows = [ranked(comparison, metric) for metric in metrics]
    columns = []
    for place, method in enumerate(comparison.methods):
        cells = [_cell(of, "bold" * best, between=" ") for of, best in (row[place] for row in rows)]
        columns.append(Column(method, [*cells, f"{comparison.values(method, 'seconds').mean():.3f}"]))
    tables = _tables(Column("mean (95 % interval)", [*names, "seconds per pair ↓"]), columns, comparison, width)
    if any(won_by_control(comparison, metric) for metric in metrics):
        for table in tables:
            table.caption = f"{table.caption}\n{MARKED}"
    return tables


def comparison_tables(comparison: Comparison, width: int | None = None) -> list[Table]:
    """For image and text a table with a row per method and a column per metric: the mean, below it its interval.

    The best mean of a column is bold; intervals are 95 % bootstrap intervals over pairs. Metrics that a control wins
    are in tables of their own, which name the control.

    Args:
        comparison: What was found for each method and pair.
        width: How wide the terminal is, in characters; metrics that do not fit go into further tables.
    """
    tables = []
    seconds = [f"{comparison.values(method, 'seconds').mean():.3f}" for method in comparison.methods]
    for group in groups(comparison):
        columns = []
        for metric in group.metrics:
            cells = [_cell(of, "bold" * best) for of, best in ranked(comparison, metric)]
            columns.append(Column(header(metric) + _winner(comparison, metric), cells))
        if not group.apart:
            columns.append(Column("seconds\nper pair", seconds))
        names = Column(f"{group.title}\nmean, 95 % interval", comparison.methods)
        tables += _tables(names, columns, comparison, width)
    return tables


def difference_tables(comparison: Comparison, against: str, width: int | None = None) -> list[Table]:
    """For image and text a table with a row per other method: `against` minus the other, over the same pairs.

    Green where the interval says that `against` is better, red where it is worse.

    Args:
        comparison: What was found for each method and pair.
        against: The label of a method.
        width: How wide the terminal is, in characters; metrics that do not fit go into further tables.
    """
    tables = []
    others = [method for method in comparison.methods if method != against]
    for group in groups(comparison):
        columns = []
        for metric in group.metrics:
            found = against_others(comparison, metric, against)
            cells = [_cell(of, ("", "green", "red")[says], sign="+") for of, says in found]
            columns.append(Column(header(metric), cells))
        tables += _tables(Column(f"{group.title}\n{against} minus", others), columns, comparison, width)
    return tables


class Group(NamedTuple):
    """Metrics that stand in one table.

    Attributes:
        modality: The tower whose maps they score.
        apart: Whether a control wins each of them, so that they rank nothing.
        metrics: The metrics, one or more.
    """

    modality: Modality
    apart: bool
    metrics: list[PairMetric]

    @property
    def title(self) -> str:
        """What stands over the table: "image", or "image, ranks nothing"."""
        return self.modality + ", ranks nothing" * self.apart


def groups(comparison: Comparison) -> list[Group]:
    """The metrics that have a value for some pair: of image and text, those that rank methods and those that do not."""
    measured = measured_metrics(comparison)
    found = [
        Group(
            modality,
            apart,
            [m for m in measured if m.modality == modality and bool(won_by_control(comparison, m)) == apart],
        )
        for modality in MODALITIES
        for apart in (False, True)
    ]
    return [group for group in found if group.metrics]


def won_by_control(comparison: Comparison, metric: PairMetric) -> str:
    """The control whose mean of a metric no method beats, "" if there is none.

    Such a metric ranks nothing: who knows nothing of a pair is at the top of its table.
    """
    found = means(comparison, metric)
    first = best_of({m: of for m, of in found.items() if m in comparison.controls}, metric)
    best = best_of({m: of for m, of in found.items() if m not in comparison.controls}, metric)
    if not first or not best:
        return ""
    ahead = found[first].mean - found[best].mean
    return first if (ahead if metric.higher_is_better else -ahead) >= 0 else ""


def _winner(comparison: Comparison, metric: PairMetric) -> str:
    """A line of the header that names the control which wins, if there is one."""
    winner = won_by_control(comparison, metric)
    return f"\n{MARK} {winner}" if winner else ""


def row_name(metric: PairMetric) -> str:
    """A metric as a row is called: "text/ConfidenceDrop ↓ (100 cos)"."""
    return f"{metric.name} {arrow(metric)}" + (f" ({metric.unit})" if metric.unit else "")


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
    table = plain_table()
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


def ranked(comparison: Comparison, metric: PairMetric) -> list[tuple[Interval, bool]]:
    """Of each method the mean of a metric with its interval, and whether it is the best one."""
    found = means(comparison, metric)
    best = best_of(found, metric)
    return [(of, method == best) for method, of in found.items()]


def against_others(comparison: Comparison, metric: PairMetric, against: str) -> list[tuple[Interval, int]]:
    """Of each other method the mean of `against` minus it over the same pairs, and the `verdict` on that."""
    own = comparison.values(against, metric.name)
    others = [comparison.values(m, metric.name) for m in comparison.methods if m != against]
    found = [paired_interval(own, other.reindex(own.index)) for other in others]
    return [(of, verdict(of, metric)) for of in found]


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
