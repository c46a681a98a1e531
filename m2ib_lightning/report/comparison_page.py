"""Several methods side by side, on one HTML page that loads nothing: tables, curves and example pairs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.report.comparison import (
    arrow,
    best_of,
    difference,
    mean_text,
    means,
    measured_metrics,
    range_text,
    verdict,
)

STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
td small{color:#6b6b6b}.best{font-weight:700}.win{color:#11703a}.lose{color:#a3231f}
figure{display:inline-block;margin:.3rem;width:180px;vertical-align:top}figure img{width:100%;image-rendering:auto}
figcaption{font-size:12px;color:#444}img.wide{max-width:100%}
"""


def save_comparison_page(
    comparison: Comparison, path: str | Path, against: str, caption: str, examples: Sequence[dict[str, Any]] = ()
) -> None:
    """Write one HTML page: means, differences, insertion and deletion curves, example pairs; nothing is loaded.

    Args:
        comparison: What was found.
        path: Of the page.
        against: The method whose differences to the others are shown.
        caption: Says what was compared: model, data, protocol.
        examples: Per pair, a dictionary of "id", "text" and "overlays", pictures by method's label.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Comparison</title><style>{STYLE}</style><h1>Attribution methods compared</h1>",
        f"<p>{html.escape(caption)}</p>",
        "<p>Means over pairs with 95 % bootstrap intervals; the best one is bold. ↑ higher is better, ↓ lower.</p>",
        _html_means(comparison),
        f"<h2>{html.escape(against)} minus the others</h2><p>Paired over the same pairs, 95 % bootstrap intervals. "
        "Green: better, red: worse, black: the interval holds zero.</p>",
        _html_differences(comparison, against),
        "<h2>Insertion and deletion</h2>",
        *_html_curves(comparison),
        "<h2>Examples</h2>" if examples else "",
        *(_html_example(example) for example in examples),
    ]
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def _html_means(comparison: Comparison) -> str:
    measured = measured_metrics(comparison)
    found = [means(comparison, metric) for metric in measured]
    head = "".join(
        f"<th>{html.escape(m.name)} {arrow(m)}<br><small>{html.escape(m.unit)}</small></th>" for m in measured
    )
    rows = []
    for method in comparison.methods:
        cells = ""
        for metric, of in zip(measured, found, strict=True):
            style = " class=best" if best_of(of, metric) == method else ""
            cells += f"<td{style}>{mean_text(of[method])}<br><small>{range_text(of[method])}</small></td>"
        seconds = comparison.values(method, "seconds").mean()
        rows.append(f"<tr><td>{html.escape(method)}</td>{cells}<td>{seconds:.3f}</td></tr>")
    return f"<table><tr><th>method</th>{head}<th>seconds per pair ↓</th></tr>{''.join(rows)}</table>"


def _html_differences(comparison: Comparison, against: str) -> str:
    measured = measured_metrics(comparison)
    head = "".join(f"<th>{html.escape(m.name)} {arrow(m)}</th>" for m in measured)
    rows = []
    for method in comparison.methods:
        if method == against:
            continue
        cells = ""
        for metric in measured:
            found = difference(comparison, metric, against, method)
            style = {1: " class=win", -1: " class=lose", 0: ""}[verdict(found, metric)]
            cells += f"<td{style}>{mean_text(found, '+')}<br><small>{range_text(found)}</small></td>"
        rows.append(f"<tr><td>{html.escape(method)}</td>{cells}</tr>")
    return f"<table><tr><th>other</th>{head}</tr>{''.join(rows)}</table>"


def _html_curves(comparison: Comparison) -> list[str]:
    names = [name for name in comparison.frame.columns if str(name).startswith("curve/")]
    return [f"<img class=wide alt='{name}' src='{_curves(comparison, str(name))}'>" for name in names]


def _curves(comparison: Comparison, name: str) -> str:
    """A picture of the mean curve of each method, as a data address."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot(title=name.removeprefix("curve/"), xlabel="share changed", ylabel="cosine")
    colours = colormaps["tab20"](np.arange(20))
    for method, colour in zip(comparison.methods, np.tile(colours, (5, 1)), strict=False):
        curves = [c for c in comparison.values(method, name) if c is not None]
        if curves:
            mean = np.mean(np.stack(curves), 0)
            axes.plot(np.linspace(0, 1, len(mean)), mean, label=method, color=colour, linewidth=1.4)
    axes.legend(fontsize=6, ncols=2)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return _address(file.getvalue(), "png")


def _html_example(example: dict[str, Any]) -> str:
    figures = []
    for label, picture in example["overlays"].items():
        file = io.BytesIO()
        picture.save(file, format="PNG")
        address = _address(file.getvalue(), "png")
        words = html.escape(example.get("words", {}).get(label, ""))
        below = f"<figcaption><b>{html.escape(label)}</b><br>{words}</figcaption>"
        figures.append(f"<figure><img alt='' src='{address}'>{below}</figure>")
    return f"<h3>{html.escape(example['id'])}: {html.escape(example['text'])}</h3>{''.join(figures)}"


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
