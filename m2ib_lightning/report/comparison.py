"""Several methods side by side, as tables for the terminal: means, paired differences, intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from m2ib_lightning.evaluation.bootstrap import Interval, interval, paired_interval
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.metrics import PairMetric

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def scores_table(comparison: Comparison) -> Table:
    """A row per metric and a column per method, for few methods: the mean and its 95 % bootstrap interval."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("mean (95 % interval)", no_wrap=True)
    for method in comparison.methods:
        table.add_column(method, justify="right")
    for metric in measured_metrics(comparison):
        found = means(comparison, metric)
        best = best_of(found, metric)
        cells = [_cell(i, "bold" if m == best else "", between=" ") for m, i in found.items()]
        unit = f" ({metric.unit})" if metric.unit else ""
        table.add_row(f"{metric.name} {arrow(metric)}{unit}", *cells)
    table.add_row("seconds per pair ↓", *(f"{comparison.values(m, 'seconds').mean():.3f}" for m in comparison.methods))
    return table


def comparison_tables(comparison: Comparison) -> list[Table]:
    """For image and text a table with a row per method and a column per metric: the mean, below it its interval.

    The best mean of a column is bold; intervals are 95 % bootstrap intervals over pairs.
    """
    tables = []
    for modality, metrics in _by_modality(comparison).items():
        table = _table(f"{modality}: mean, 95 % interval", metrics)
        table.caption = comparison.protocol.caption
        table.add_column("seconds\nper pair", justify="right")
        found = [means(comparison, metric) for metric in metrics]
        best = [best_of(of, metric) for of, metric in zip(found, metrics, strict=True)]
        for method in comparison.methods:
            cells = [_cell(of[method], "bold" if b == method else "") for of, b in zip(found, best, strict=True)]
            table.add_row(method, *cells, f"{comparison.values(method, 'seconds').mean():.3f}")
        tables.append(table)
    return tables


def difference_tables(comparison: Comparison, against: str) -> list[Table]:
    """For image and text a table with a row per other method: `against` minus the other, over the same pairs.

    Green where the interval says that `against` is better, red where it is worse.
    """
    tables = []
    for modality, metrics in _by_modality(comparison).items():
        table = _table(f"{modality}: {against} minus", metrics)
        table.caption = comparison.protocol.caption
        for method in (m for m in comparison.methods if m != against):
            cells = []
            for metric in metrics:
                found = difference(comparison, metric, against, method)
                cells.append(_cell(found, {1: "green", -1: "red", 0: ""}[verdict(found, metric)], sign="+"))
            table.add_row(method, *cells)
        tables.append(table)
    return tables


def _by_modality(comparison: Comparison) -> dict[str, list[PairMetric]]:
    measured = measured_metrics(comparison)
    groups = {modality: [m for m in measured if m.modality == modality] for modality in ("image", "text")}
    return {modality: metrics for modality, metrics in groups.items() if metrics}


def _table(title: str, metrics: Sequence[PairMetric]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(title.replace(": ", "\n"), no_wrap=True)
    for metric in metrics:
        # Lines of a header break where a word of the class's name begins.
        words = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[a-z])(?=AU|IoU)", "\n", type(metric).__name__)
        table.add_column(f"{words} {arrow(metric)}" + f"\n{metric.unit}" * bool(metric.unit), justify="right")
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
    return "–" if math.isnan(i.mean) else f"{i.mean:{sign}.3g}"


def range_text(i: Interval) -> str:
    """The ends of the interval."""
    return "" if math.isnan(i.mean) else f"{i.low:.2g}..{i.high:.2g}"
