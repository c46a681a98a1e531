"""Several methods side by side, on one HTML page that loads nothing: tables, curves and example pairs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2ib_lightning.evaluation.bootstrap import Interval
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.report.comparison import (
    best_of,
    by_modality,
    difference,
    header,
    mean_text,
    means,
    range_text,
    verdict,
)

STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.25rem .55rem;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap}
th{vertical-align:bottom;line-height:1.25}td{line-height:1.3}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
td small{color:#6b6b6b}.best{font-weight:700}.win{color:#11703a}.lose{color:#a3231f}
figure{display:inline-block;margin:.3rem;width:180px;vertical-align:top}figure img{width:100%;image-rendering:auto}
figcaption{font-size:12px;color:#444}img.wide{max-width:100%}
"""

PAST = {"insertion": "inserted", "deletion": "deleted"}


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
    curves = _html_curves(comparison, against)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Comparison</title><style>{STYLE}</style><h1>Attribution methods compared</h1>",
        f"<p>{html.escape(caption)}</p>",
        "<p>Means over pairs with 95 % bootstrap intervals; the best one is bold. ↑ higher is better, ↓ lower.</p>",
        *_html_means(comparison),
        f"<h2>{html.escape(against)} minus the others</h2><p>Paired over the same pairs, 95 % bootstrap intervals. "
        "Green: better, red: worse, black: the interval holds zero.</p>",
        *_html_differences(comparison, against),
        "<h2>Insertion and deletion</h2>" if curves else "",
        curves,
        "<h2>Examples</h2>" if examples else "",
        *(_html_example(example) for example in examples),
    ]
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def _html_means(comparison: Comparison) -> Iterator[str]:
    seconds = [f"{comparison.values(method, 'seconds').mean():.3f}" for method in comparison.methods]
    for modality, metrics in by_modality(comparison).items():
        columns = []
        for metric in metrics:
            found = means(comparison, metric)
            best = best_of(found, metric)
            columns.append([_cell(of, "best" if method == best else "") for method, of in found.items()])
        columns.append([f"<td>{text}" for text in seconds])
        yield _html_table(modality, [*map(header, metrics), "seconds\nper pair ↓"], comparison.methods, columns)


def _html_differences(comparison: Comparison, against: str) -> Iterator[str]:
    others = [method for method in comparison.methods if method != against]
    for modality, metrics in by_modality(comparison).items():
        columns = []
        for metric in metrics:
            found = [difference(comparison, metric, against, method) for method in others]
            styles = [{1: "win", -1: "lose", 0: ""}[verdict(of, metric)] for of in found]
            columns.append([_cell(of, style, sign="+") for of, style in zip(found, styles, strict=True)])
        yield _html_table(modality, list(map(header, metrics)), others, columns)


def _cell(found: Interval, style: str, sign: str = "") -> str:
    return f"<td class='{style}'>{mean_text(found, sign)}<br><small>{range_text(found)}</small>"


def _html_table(name: str, headers: Sequence[str], rows: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    """A table with a row for each method; the cells, column by column, are HTML."""
    head = "".join(f"<th>{html.escape(text).replace(chr(10), '<br>')}" for text in (name, *headers))
    cells = zip(*columns, strict=True)
    body = "".join(f"<tr><td>{html.escape(row)}{''.join(of)}" for row, of in zip(rows, cells, strict=True))
    return f"<table><tr>{head}{body}</table>"


def _html_curves(comparison: Comparison, against: str) -> str:
    """The mean curve of each method, a panel for each kind of curve, on one picture; "" where there are none."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = [str(name) for name in comparison.frame.columns if str(name).startswith("curve/")]
    if not names:
        return ""
    rows = (len(names) + 1) // 2
    figure = Figure(figsize=(11, 3.2 * rows), dpi=110, layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    others = [method for method in comparison.methods if method not in (against, "random")]
    looks: dict[str, dict[str, Any]] = {m: {"color": colormaps["tab20"](i % 20)} for i, m in enumerate(others)}
    looks |= {"random": {"color": "#888888", "linestyle": "--"}, against: {"color": "#111111", "linewidth": 2.6}}
    lines = {}
    for axes, name in zip(panels, names, strict=False):
        _, modality, kind = name.split("/")
        axes.set_title(f"{modality}, {kind} ({'higher' if kind == 'insertion' else 'lower'} is better)", fontsize=10)
        axes.set_xlabel(f"share of the {'pixels' if modality == 'image' else 'tokens'} {PAST[kind]}", fontsize=9)
        axes.set_ylabel("cosine", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        for method in comparison.methods:
            curves = [c for c in comparison.values(method, name) if c is not None]
            if curves:
                mean = np.mean(np.stack(curves), 0)
                share = np.linspace(0, 1, len(mean))
                on_top = 3 if method == against else 2
                (lines[method],) = axes.plot(share, mean, **{"linewidth": 1.3, **looks[method]}, zorder=on_top)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.legend(list(lines.values()), list(lines), loc="outside right center", fontsize=9, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return f"<img class=wide alt='mean curves of {len(lines)} methods' src='{_address(file.getvalue(), 'png')}'>"


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
