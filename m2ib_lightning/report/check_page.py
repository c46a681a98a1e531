"""The page of a model's health."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2ib_lightning.evaluation.health import Health, stacked
from m2ib_lightning.inline import png_address
from m2ib_lightning.report.comparison_page import example_html, example_of, save_page
from m2ib_lightning.types import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE = (
    "Patches by the rank of their nats, in groups: the share of the nats that a group has, and the share of the "
    "similarity that is lost when it is hidden. Of the nats means over pairs, of the similarity medians and quartiles."
)

MARKS = {True: "<span class=win>ok</span>", False: "<span class=lose>look</span>", None: ""}


def save_check_page(health: Health, path: Path, pairs: Sequence[Pair]) -> None:
    """Write one HTML page that loads nothing: findings, the calibration curve, examples, and the text to paste.

    Args:
        health: What was measured of the model.
        path: Where the page is written.
        pairs: The first of those that were explained, to be shown.
    """
    rows = "".join(
        f"<tr><td>{html.escape(f.name)}<td>{MARKS[f.good]}<td>{html.escape(f.value)}"
        f"<td style='white-space:normal;text-align:left;min-width:18rem'>{html.escape(f.says)}"
        for f in health.findings()
    )
    parts = [
        f"<p><b>{html.escape(health.conclusion)}</b> Measured on {len(health.results)} pairs.</p>",
        f"<div class=scroll tabindex=0><table>{rows}</table></div>",
        f"<h2>Nats and what hiding costs</h2><p class=note>{CURVE}</p>",
        f"<img class=wide alt='calibration curve' src='{png_address(_curve(health))}'>",
        "<h2>To paste</h2>",
        f"<pre>{html.escape(health.text())}</pre>",
        "<h2>Examples</h2>",
    ]
    for pair, a in zip(pairs, health.results, strict=False):
        parts.append(example_html(example_of(pair, {a.verdict.replace("_", " "): a})))
    save_page(path, "Is this a model that M2IB explains well?", parts)


def _curve(health: Health) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    nats, falls = stacked(health.nats), stacked(health.falls)
    low, middle, high = np.nanpercentile(falls, (25, 50, 75), axis=0)
    ends = [2**k for k in range(len(middle))]
    ranks = ["1", *(f"{end // 2 + 1}–{end}" if end > 2 else "2" for end in ends[1:])]
    axes.bar(ranks, np.nanmean(nats, 0), color="#f0b860", label="share of the nats")
    around, label = (middle - low, high - middle), "share of the similarity lost"
    axes.errorbar(ranks, middle, around, fmt="o-", color="#111111", capsize=2, label=label)
    axes.legend(fontsize=9, frameon=False)
    axes.axhline(0, color="#bbbbbb", linewidth=0.8)
    axes.set_xlabel("rank of the patches", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
