#!/usr/bin/env python
"""Draw what each setting of M2IB does to each metric, on held-out scenes: three objects, one named.

    python scripts/search_settings.py
    python scripts/search_settings.py --config configs/search.yaml --scenes 40 --scene_seed 30000

Varies one setting at a time around the default. Each combination is a row of OUTPUT/settings.csv as soon as it is done,
and is not computed again by a later run; curves go to OUTPUT/settings.png. Never test on the scenes chosen by.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from on_scenes import drawn, names_first, options_of, pairs_of
from rich.console import Console
from rich.progress import track
from rich.table import Table

from m2ib_lightning import M2IB, Attribution, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene
from m2ib_lightning.evaluation import Evaluator, interval
from m2ib_lightning.metrics import ConfidenceDrop, PointingGame, RelevanceMassAccuracy, TokenAUROC
from m2ib_lightning.types import Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES: dict[Modality, dict[str, str]] = {
    "image": {
        "pointing": "highest pixel on the object",
        "mass": "share of the map on it",
        "through": "similarity through the bottleneck",
        "drop": "similarity lost if only the map is shown",
    },
    "text": {
        "word first": "naming word leads",
        "auroc": "AUROC of its tokens",
        "through": "similarity through the bottleneck",
        "drop": "similarity lost if only the map is shown",
    },
}
COLOURS = {"pointing": "#1b6ca8", "word first": "#1b6ca8", "mass": "#d1495b", "auroc": "#d1495b"}
COLOURS |= {"through": "#2e8b57", "drop": "#9a9a9a"}
INK, GREY = "#222222", "#777777"


def arguments_of(method: M2IB) -> dict[str, Any]:
    """The settings that are searched, as the method has them, layers resolved."""
    method.prepare()
    names = ("image_layer", "image_beta", "text_layer", "text_beta", "steps", "noise_samples")
    return {name: method.settings[name] for name in names}


def plan(around: dict[str, Any], vary: dict[str, list[Any]], default: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination once, the default first; the default's value is added where a list leaves it out.

    Raises:
        ValueError: Something that is not searched is to be varied.
    """
    if unknown := set(vary) - set(default):
        raise ValueError(
            f"Expected `vary` to name some of {list(default)} but got {sorted(unknown)}. Remedy: leave those out."
        )
    others = [{name: value} for name, values in vary.items() for value in values if value != default[name]]
    return [around | default | {"modalities": towers(*changed)} | changed for changed in ({}, *others)]


def towers(setting: str = "") -> list[Modality]:
    """Those that a setting is about; the other one's map is the default's."""
    named: list[Modality] = [m for m in CURVES if setting.startswith(f"{m}_")]
    return named or list(CURVES)


def observe(result: Attribution, scene: Scene, row: dict[str, Any]) -> dict[str, float]:
    """The values of one pair, shares and cosines."""
    return {
        "clean": result.score,
        "image pointing": row["image/PointingGame"],
        "image mass": row["image/RelevanceMassAccuracy"],
        "image through": result.image_score,
        "image drop": row["image/ConfidenceDrop"] / 100,
        "text word first": float("nan") if result.text_map is None else names_first(result, scene),
        "text auroc": row["text/TokenAUROC"],
        "text through": result.text_score,
        "text drop": row["text/ConfidenceDrop"] / 100,
    }


def evaluate(backbone: Backbone, scenes: Sequence[Scene], settings: dict[str, Any], batch: int = 8) -> dict[str, float]:
    """Means over the scenes, with the ends of their 95 % intervals as "... low" and "... high"; seconds per pair."""
    metrics = [PointingGame(), RelevanceMassAccuracy(), TokenAUROC(), ConfidenceDrop("image"), ConfidenceDrop("text")]
    evaluator = Evaluator(M2IB(backbone, **settings), metrics)
    rows = []
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        began = time.perf_counter()
        results, values = evaluator.explain(pairs_of(some))
        seconds = (time.perf_counter() - began) / len(some)
        rows += [observe(*each) | {"seconds": seconds} for each in zip(results, some, values, strict=True)]
    numbers: dict[str, float] = {}
    for name, column in pd.DataFrame(rows).items():
        numbers[str(name)], numbers[f"{name} low"], numbers[f"{name} high"], _ = interval(column)
    return numbers


def search(
    backbone: Backbone, combinations: list[dict[str, Any]], options: argparse.Namespace, file: Path, console: Console
) -> pd.DataFrame:
    """A row per combination, in order; those that the file has of the same model and scenes are taken from there."""
    about = {"weights": backbone.weight_hash, "first": options.scene_seed, "scenes": options.scenes}
    scenes = drawn(options)
    for settings in track(combinations, "Settings", console=console):
        if find(file, key(settings, about)) is not None:
            continue
        row = {"key": key(settings, about)} | settings | about | evaluate(backbone, scenes, settings)
        append(file, row)
        console.print(show(settings))
    rows = [find(file, key(settings, about)) for settings in combinations]
    return pd.DataFrame([row for row in rows if row is not None]).reset_index(drop=True)


def key(settings: dict[str, Any], about: dict[str, Any]) -> str:
    return json.dumps(settings | about, sort_keys=True)


def append(file: Path, row: dict[str, Any]) -> None:
    """Add a row; the file is whole at any time."""
    new = pd.DataFrame([row])
    unfinished = file.with_suffix(".unfinished")
    (pd.concat([pd.read_csv(file), new]) if file.is_file() else new).to_csv(unfinished, index=False)
    unfinished.replace(file)


def find(file: Path, wanted: str) -> pd.Series | None:
    """The row of a combination, if it is done."""
    rows = pd.read_csv(file) if file.is_file() else pd.DataFrame({"key": []})
    rows = rows[rows["key"] == wanted]
    return None if rows.empty else rows.iloc[-1]


def show(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name not in ("antithetic", "modalities"))


def varied(frame: pd.DataFrame, name: str, values: Sequence[Any], default: dict[str, Any]) -> pd.DataFrame:
    """The rows in which one setting takes its values and all others have the default's."""
    others = [other for other in default if other != name]
    keep = np.all([frame[other].map(tick) == tick(default[other]) for other in others], axis=0)
    rows = frame[keep].set_index(frame[keep][name].map(tick))
    order = list(values) if default[name] in values else sorted([*values, default[name]])
    return rows.loc[[tick(value) for value in order]]


def draw(frame: pd.DataFrame, vary: dict[str, list[Any]], default: dict[str, Any], about: str, path: Path) -> None:
    """A row of panels per modality, a panel per setting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    other: dict[Modality, str] = {"image": "text_", "text": "image_"}
    columns = {m: [name for name in vary if not name.startswith(other[m])] for m in other}
    columns = {m: names for m, names in columns.items() if names}
    wide, high = 3.05 * max(map(len, columns.values())) + 1.9, 2.75 * len(columns) + 1.4
    figure = Figure(figsize=(wide, high), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    inside = {"left": 0.55 / wide, "right": 1 - 2.1 / wide, "top": 1 - 1.1 / high, "bottom": 0.55 / high}
    grid = figure.add_gridspec(len(columns), max(map(len, columns.values())), hspace=0.52, wspace=0.09, **inside)
    figure.text(0.55 / wide, 1 - 0.33 / high, "What each setting of M2IB does", size=15, weight="bold", color=INK)
    figure.text(0.55 / wide, 1 - 0.58 / high, about, size=9, color=GREY)
    for row, modality in enumerate(columns):
        for column, name in enumerate(columns[modality]):
            axes = figure.add_subplot(grid[row, column])
            rows = varied(frame, name, vary[name], default)
            panel(axes, rows, modality, name, default[name])
            if column:
                axes.tick_params(labelleft=False)
            else:
                axes.set_title(modality, loc="left", size=12, weight="bold", color=INK, pad=9)
            if column == len(columns[modality]) - 1:
                legend(axes, modality, rows)
    figure.savefig(path)


def panel(axes: Axes, rows: pd.DataFrame, modality: Modality, name: str, default: Any) -> None:
    """The curves of one setting, bands for their intervals, the default marked."""
    x, at = np.arange(len(rows)), list(rows.index).index(tick(default))
    axes.axvspan(at - 0.32, at + 0.32, color="#f3ecd8", linewidth=0, zorder=0)
    axes.axhline(float(rows["clean"].mean()), color=COLOURS["through"], linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    for curve in CURVES[modality]:
        y, low, high = (rows[f"{modality} {curve}{end}"].to_numpy(float) for end in ("", " low", " high"))
        axes.fill_between(x, low, high, color=COLOURS[curve], alpha=0.12, linewidth=0)
        axes.plot(x, y, color=COLOURS[curve], linewidth=1.8, marker="o", markersize=3, zorder=3)
        axes.plot(at, y[at], "o", color=COLOURS[curve], markersize=7, markeredgecolor="white", zorder=4)
    axes.set_xticks(x, list(rows.index))
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_ylim(-0.03, 1.05)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel(name.replace("_", " "), size=9.5, color=INK)
    axes.tick_params(colors=GREY, labelsize=8, length=0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def tick(value: Any) -> str:
    """A value on an axis: 3.0 and "3.0" as 3, "embeddings" as it fits below a panel."""
    return "emb." if value == "embeddings" else f"{float(value):g}"


def legend(axes: Axes, modality: Modality, rows: pd.DataFrame) -> None:
    """Names of the curves beside the last panel, each as near its end as the others leave room."""
    ends = {name: float(rows[f"{modality} {name}"].iloc[-1]) for name in CURVES[modality]}
    ends["clean"] = float(rows["clean"].mean())
    names = {**CURVES[modality], "clean": "of the clean pairs"}
    places, y = {}, 1.12
    for name in sorted(ends, key=lambda n: -ends[n]):
        places[name] = y = min(ends[name], y - 0.12)
    lift = max(0.0, -min(places.values()))
    for name, place in places.items():
        words = names[name].replace("through the", "through\nthe").replace("lost if", "lost if\n")
        colour = COLOURS.get(name, COLOURS["through"])
        axes.annotate(
            words.replace("\n ", "\n"), (1.03, place + lift), xycoords=("axes fraction", "data"), size=8, color=colour,
            va="center", annotation_clip=False,
        )  # fmt: skip


def results(frame: pd.DataFrame, vary: dict[str, list[Any]], default: dict[str, Any]) -> Table:
    """A line per value of each setting."""
    columns = [f"{m} {curve}" for m in CURVES for curve in CURVES[m]]
    table = Table("setting", "value", *columns, "s / pair", title="* the default")
    for name, values in vary.items():
        for value, row in varied(frame, name, values, default).iterrows():
            mark = " *" if value == tick(default[name]) else ""
            numbers = ["" if np.isnan(row[column]) else f"{row[column]:.2f}" for column in columns]
            table.add_row(name, f"{value}{mark}", *numbers, f"{row['seconds']:.2f}")
        table.add_section()
    return table


def main() -> None:
    parser = options_of(__doc__, scenes=40, scene_seed=30_000, output="outputs/search")
    parser.add_argument("--config", type=Path, default=Path("configs/search.yaml"))
    options = parser.parse_args()
    console, config = Console(width=170), yaml.safe_load(options.config.read_text())
    around, vary = dict(config.get("around") or {}), dict(config["vary"])
    backbone = load_backbone(options.backbone)
    default = arguments_of(M2IB(backbone, **around))
    options.output.mkdir(parents=True, exist_ok=True)
    frame = search(backbone, plan(around, vary, default), options, options.output / "settings.csv", console)
    console.print(results(frame, vary, default))
    about = (
        f"{options.scenes} held-out scenes (seeds from {options.scene_seed}), {options.backbone} model, "
        "one setting varied at a time; the default is shaded, bands are 95 % intervals"
    )
    draw(frame, vary, default, about, options.output / "settings.png")
    console.print(f"Written: {options.output}/settings.csv, {options.output}/settings.png")


if __name__ == "__main__":
    main()
