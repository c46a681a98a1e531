"""Several methods side by side, on one HTML page that loads nothing: tables, curves and example pairs."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import reduce
from PIL import Image

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation import Comparison, Interval
from m2ib_lightning.files import replacing
from m2ib_lightning.inline import png_address
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.report.comparison import (
    against_others,
    groups,
    header,
    mean_text,
    range_text,
    ranked,
    won_by_control,
)
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.types import Pair

STYLE = """
:root{color-scheme:light}
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1a1a1a}
h2{margin-top:2.2rem}.note{color:#555;max-width:70ch}
.scroll{overflow-x:auto;margin:1rem 0;
background:linear-gradient(90deg,#fff 30%,#fff0),linear-gradient(270deg,#fff 30%,#fff0) 100% 0,
linear-gradient(90deg,#0003,#0000),linear-gradient(270deg,#0003,#0000) 100% 0;background-repeat:no-repeat;
background-size:40px 100%,40px 100%,12px 100%,12px 100%;background-attachment:local,local,scroll,scroll}
table{border-collapse:collapse}
th,td{padding:.25rem .55rem;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap}
th{vertical-align:bottom;line-height:1.25}td{line-height:1.3}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}tr.control{color:#777}
th small,td small{color:#6b6b6b;font-weight:400}.best{font-weight:700}.win{color:#11703a}.lose{color:#a3231f}
figure{display:inline-block;margin:.3rem;width:180px;vertical-align:top}figure img{width:100%;image-rendering:auto}
figcaption{font-size:12px;color:#444;overflow-wrap:anywhere}img.wide{max-width:100%}
@media(max-width:600px){body{margin:1rem auto;font-size:13px}figure{width:calc(50% - .8rem)}th,td{padding:.25rem .4rem}}
"""

CURVES = {"insertion": ("inserted", "higher"), "deletion": ("deleted", "lower")}
"""Of each kind of curve, what is done to the input along it, and which area under it is better."""

SIDE = 192
"""Width and height of the example pictures, in pixels."""

APART = (
    "Apart: a control (random, centre or uniform), which knows nothing of the pair, is at the top of these. "
    "They rank nothing here, and are shown to be seen."
)


class Example(NamedTuple):
    """What several methods say of one pair.

    Attributes:
        id: The id of the pair.
        text: The caption of the pair.
        pictures: The picture, then each method's map over it, by label.
        words: Each method's two strongest words with their values, by label.
    """

    id: str
    text: str
    pictures: dict[str, Image.Image]
    words: dict[str, str]


def make_examples(comparison: Comparison, pairs: Sequence[Pair]) -> list[Example]:
    """Pairs with what the stores of a comparison hold of them.

    Args:
        comparison: What was found; its folder holds a store for each method.
        pairs: Some of the pairs that were compared.
    """
    stores = {m: AttributionStore(comparison.folder / m / "attributions") for m in comparison.methods}
    return [example_of(pair, {method: store[pair.id] for method, store in stores.items()}) for pair in pairs]


def example_of(pair: Pair, found: Mapping[str, Attribution]) -> Example:
    """A pair with what is said of it, by label."""
    picture = pair.image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    words = {
        label: ", ".join(f"{word} {value:.2g}" for word, value in sorted(a.words(), key=lambda of: -of[1])[:2])
        for label, a in found.items()
        if a.text_map is not None
    }
    overlays = {label: a.overlay(picture) for label, a in found.items() if a.image_map is not None}
    return Example(pair.id, pair.text, {"image": picture, **overlays}, words)


def save_comparison_page(
    comparison: Comparison,
    path: str | Path,
    against: str,
    caption: str,
    examples: Sequence[Example] = (),
    above: Sequence[str] = (),
    title: str = "Attribution methods compared",
) -> None:
    """Write one HTML page: means, differences, insertion and deletion curves, example pairs; nothing is loaded.

    Args:
        comparison: What was found for each method and pair.
        path: The file that the page is written to.
        against: The label of the method whose differences to the others are shown.
        caption: Says what was compared: model, data, protocol.
        examples: Pairs to show, see `make_examples`.
        above: HTML that stands before the first table.
        title: What the page is called.
    """
    curves = _curves(comparison, against)
    parts = [
        f"<p>{html.escape(caption)}</p>",
        *above,
        "<p class=note>Means over pairs with 95 % bootstrap intervals; the best one is bold. ↑ higher is better, "
        "↓ lower. Controls are grey: they know nothing of the pair. A shade at an edge says that a table scrolls.</p>",
        *(
            f"<p class=note>Left out: {html.escape(label)}. {html.escape(reason)}</p>"
            for label, reason in comparison.left_out.items()
        ),
        *_means(comparison),
        f"<h2>{html.escape(against)} minus the others</h2><p class=note>Paired over the same pairs, 95 % bootstrap "
        "intervals. Green: better, red: worse, black: the interval holds zero.</p>",
        *_differences(comparison, against),
        "<h2>Insertion and deletion</h2>" if curves else "",
        curves,
        "<h2>Examples</h2>" if examples else "",
        *map(example_html, examples),
    ]
    save_page(path, title, parts)


def save_page(path: str | Path, title: str, parts: Sequence[str]) -> None:
    """Write an HTML page that loads nothing: the title, and below it parts that are HTML."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
    )
    titled = f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
    with replacing(Path(path)) as unfinished:
        unfinished.write_text("\n".join([head, titled, *parts]), encoding="utf-8")


def _means(comparison: Comparison) -> Iterator[str]:
    seconds = [f"<td>{comparison.values(method, 'seconds').mean():.3f}" for method in comparison.methods]
    for group in groups(comparison):
        columns = [[_cell(of, "best" * best) for of, best in ranked(comparison, metric)] for metric in group.metrics]
        heads = [_head(comparison, metric) for metric in group.metrics]
        if group.apart:
            yield f"<p class=note>{APART}</p>"
        else:
            columns.append(seconds)
            heads.append("seconds<br>per pair ↓")
        yield _table(group.title, heads, comparison.methods, columns, comparison.controls)


def _differences(comparison: Comparison, against: str) -> Iterator[str]:
    others = [method for method in comparison.methods if method != against]
    for group in groups(comparison):
        columns = [
            [_cell(of, ("", "win", "lose")[says], sign="+") for of, says in against_others(comparison, metric, against)]
            for metric in group.metrics
        ]
        heads = [_head(comparison, metric) for metric in group.metrics]
        yield _table(group.title, heads, others, columns, comparison.controls)


def _head(comparison: Comparison, metric: PairMetric) -> str:
    """A column's header, with the control that wins it."""
    winner = won_by_control(comparison, metric)
    below = f"<br><small>won by {html.escape(winner)}</small>" if winner else ""
    return html.escape(header(metric)).replace("\n", "<br>") + below


def _cell(found: Interval, style: str, sign: str = "") -> str:
    return f"<td class='{style}'>{mean_text(found, sign)}<br><small>{range_text(found)}</small>"


def _table(
    name: str, heads: Sequence[str], rows: Sequence[str], columns: Sequence[Sequence[str]], controls: Sequence[str]
) -> str:
    """A table with a row for each method; the heads and the cells, column by column, are HTML."""
    head = f"<th>{html.escape(name)}" + "".join(f"<th>{text}" for text in heads)
    body = "".join(
        f"<tr{' class=control' * (row in controls)}><td>{html.escape(row)}{''.join(cells)}"
        for row, cells in zip(rows, zip(*columns, strict=True), strict=True)
    )
    return f"<div class=scroll tabindex=0><table><tr>{head}{body}</table></div>"


def _curves(comparison: Comparison, against: str) -> str:
    """The mean curve of each method, a panel for each kind of curve, on one picture; "" where there are none."""
    from matplotlib.figure import Figure

    shown = [(m, kind) for m in comparison.metrics for kind in m.keeps if kind in CURVES]
    shown = [(m, kind) for m, kind in shown if comparison.frame[f"{m.modality}/{kind}"].notna().any()]
    if not shown:
        return ""
    rows = (len(shown) + 1) // 2
    figure = Figure(figsize=(11, 3.2 * rows), dpi=110, layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    looks = _looks(comparison, against)
    lines: dict[str, Any] = {}
    for axes, (metric, kind) in zip(panels, shown, strict=False):
        done, better = CURVES[kind]
        axes.set_title(f"{metric.modality}, {kind} ({better} is better)", fontsize=10)
        axes.set_xlabel(f"share of the {'pixels' if metric.modality == 'image' else 'tokens'} {done}", fontsize=9)
        axes.set_ylabel("cosine", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        for method in comparison.methods:
            curves = [of for of in comparison.values(method, f"{metric.modality}/{kind}") if of is not None]
            if curves:
                mean = reduce(np.stack(curves), "pairs steps -> steps", "mean")
                (lines[method],) = axes.plot(np.linspace(0, 1, len(mean)), mean, **looks[method])
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.legend(list(lines.values()), list(lines), loc="outside right center", fontsize=9, frameon=False)
    return f"<img class=wide alt='mean curves of {len(lines)} methods' src='{png_address(figure)}'>"


def _looks(comparison: Comparison, against: str) -> dict[str, dict[str, Any]]:
    """How each method's line is drawn: the one in question thick and black, controls dashed and grey."""
    from matplotlib import colormaps

    greys = dict(zip(comparison.controls, ("#666666", "#999999", "#bbbbbb"), strict=False))
    others = [method for method in comparison.methods if method not in greys and method != against]
    looks: dict[str, dict[str, Any]] = {
        method: {"color": colormaps["tab20"](i % 20), "linewidth": 1.3, "zorder": 2} for i, method in enumerate(others)
    }
    looks |= {m: {"color": grey, "linewidth": 1.3, "linestyle": "--", "zorder": 1} for m, grey in greys.items()}
    return looks | {against: {"color": "#111111", "linewidth": 2.6, "zorder": 3}}


def example_html(example: Example) -> str:
    """A pair's picture and every method's map and words."""
    figures = []
    for label, picture in example.pictures.items():
        words = html.escape(example.words.get(label, ""))
        below = f"<figcaption><b>{html.escape(label)}</b><br>{words}</figcaption>"
        figures.append(f"<figure><img alt='' src='{png_address(picture)}'>{below}</figure>")
    return f"<h3>{html.escape(example.id)}: {html.escape(example.text)}</h3>{''.join(figures)}"
