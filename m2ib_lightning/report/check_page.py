"""The page of a model's health."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m2ib_lightning.evaluation.health import Health
from m2ib_lightning.files import replacing
from m2ib_lightning.report.comparison_page import STYLE, Example, example_html, png_address
from m2ib_lightning.types import Pair

CURVE = (
    "Patches in groups by their nats: the share of the nats that a group has, and by what share the similarity falls "
    "when it is hidden. Means over pairs; bars are quartiles."
)

MARKS = {True: "<span class=win>ok</span>", False: "<span class=lose>look</span>", None: ""}


def save_check_page(health: Health, path: Path, pairs: Sequence[Pair]) -> None:
    """Write one HTML page that loads nothing: findings, the calibration curve, examples, and the text to paste.

    Args:
        health: What was measured.
        path: Where the page is written.
        pairs: The first of those that were explained, to be shown.
    """
    rows = "".join(
        f"<tr><td>{html.escape(f.name)}<td>{MARKS[f.good]}<td>{html.escape(f.value)}"
        f"<td style='white-space:normal;text-align:left;min-width:18rem'>{html.escape(f.says)}"
        for f in health.findings()
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>Check of a model</title><style>{STYLE}</style><h1>Is this a model that M2IB explains well?</h1>",
        f"<p><b>{html.escape(health.conclusion)}</b> Measured on {len(health.results)} pairs.</p>",
        f"<div class=scroll tabindex=0><table>{rows}</table></div>",
        f"<h2>Nats and what hiding costs</h2><p class=note>{CURVE}</p>",
        f"<img class=wide alt='calibration curve' src='{png_address(_curve(health))}'>",
        "<h2>To paste</h2>",
        f"<pre>{html.escape(health.text())}</pre>",
        "<h2>Examples</h2>",
    ]
    for pair, a in zip(pairs, health.results, strict=False):
        picture = pair.image.convert("RGB").resize((192, 192))
        words = ", ".join(f"{word} {value:.2g}" for word, value in sorted(a.words(), key=lambda of: -of[1])[:2])
        shown = {"image": picture, a.verdict.replace("_", " "): a.overlay(picture)}
        parts.append(example_html(Example(a.id, a.text, shown, {a.verdict.replace("_", " "): words})))
    with replacing(path) as unfinished:
        unfinished.write_text("\n".join(parts), encoding="utf-8")


def _curve(health: Health) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    nats, falls = np.stack(health.nats), np.stack(health.falls)
    mean, (low, high) = falls.mean(0), np.percentile(falls, (25, 75), axis=0)
    around = (np.maximum(0, mean - low), np.maximum(0, high - mean))
    axes.errorbar(nats.mean(0), mean, around, fmt="o-", color="#111111", ecolor="#999999", capsize=2)
    axes.axhline(0, color="#bbbbbb", linewidth=0.8)
    axes.set_xlabel("share of the nats that a group of patches has", fontsize=9)
    axes.set_ylabel("share of the similarity\nlost without it", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
