"""How the files of a measurement become the Markdown of a page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from m2ib_lightning import Attribution, AttributionStore
from m2ib_lightning.data import make_scene
from m2ib_lightning.evaluation import Interval, paired_interval
from m2ib_lightning.verdict import VERDICTS

ROOT = Path(__file__).resolve().parents[1]
OURS = "M2IB"
MEASURED = {
    "highest pixel on them": ("image/PointingGame", True, 2),
    "share of the map on them": ("image/RelevanceMassAccuracy", True, 2),
    "rank accuracy": ("image/RelevanceRankAccuracy", True, 2),
    "confidence drop ↓": ("image/ConfidenceDrop", False, 1),
    "insertion ↑": ("image/InsertionAUC", True, 2),
    "deletion ↓": ("image/DeletionAUC", False, 2),
    "naming tokens: AUROC": ("text/TokenAUROC", True, 2),
    "share of the text map": ("text/TokenMassAccuracy", True, 2),
}
"""Head of a column: the metric, whether higher is better, and the digits that are shown."""

FIRST_THREE = ("highest pixel on them", "share of the map on them", "naming tokens: AUROC")


def scores(path: Path) -> dict[str, pd.DataFrame]:
    """Of each method its values, by the id of the pair."""
    frame = pd.read_parquet(path)
    return {label: rows.set_index("id") for label, rows in frame.groupby("method", sort=False)}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What a script kept with `on_scenes.keep`."""
    return json.loads(path.read_text())["rows"]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first head may be empty."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def number(value: float, digits: int, sign: str = "") -> str:
    """So many digits, and a dash where there is no value; never a negative zero."""
    return "–" if np.isnan(value) else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def between(found: Interval, digits: int = 2) -> str:
    """A difference with its interval, in bold where that does not hold zero."""
    mean = number(found.mean, digits, "+")
    mean = f"**{mean}**" if found.low > 0 or found.high < 0 else mean
    return f"{mean} ({number(found.low, digits)}..{number(found.high, digits)})"


def column(values: Sequence[float], digits: int, higher: bool) -> list[str]:
    """A column's numbers, those that are shown as the best in bold."""
    shown = [number(value, digits) for value in values]
    known = [round(value, digits) for value in values if not np.isnan(value)]
    best = number(max(known) if higher else min(known), digits) if known else ""
    return [f"**{cell}**" if cell == best else cell for cell in shown]


def methods_table(
    runs: Sequence[dict[str, pd.DataFrame]], heads: Iterable[str], labels: Sequence[str] | None = None
) -> str:
    """A row for each method and a column for each metric; several runs stand beside each other in a cell.

    A method that a run has not has a dash there.
    """
    known = list(dict.fromkeys(label for run in runs for label in run))
    labels = [label for label in labels or known if label in known]

    def mean(run: dict[str, pd.DataFrame], label: str, name: str) -> float:
        return float(run[label][name].mean()) if label in run else float("nan")

    columns = []
    for head in heads:
        metric, higher, digits = MEASURED[head]
        parts = [column([mean(run, label, metric) for label in labels], digits, higher) for run in runs]
        columns.append([" / ".join(cells) for cells in zip(*parts, strict=True)])
    seconds = [np.nanmean([mean(run, label, "seconds") for run in runs]) for label in labels]
    columns.append([number(value, 2) for value in seconds])
    names = [f"**{label}**" if label == OURS else label for label in labels]
    return markdown(["", *heads, "seconds a pair"], zip(names, *columns, strict=True))


def standing(run: dict[str, pd.DataFrame], heads: Iterable[str] = MEASURED) -> str:
    """For each metric, which methods M2IB is ahead of, ties with and is behind, by paired 95 % intervals."""
    lines = []
    for head in heads:
        metric, higher, digits = MEASURED[head]
        groups: dict[str, list[str]] = {"ahead of": [], "ties with": [], "behind": []}
        for label in (label for label in run if label != OURS):
            found = paired_interval(*(run[name][metric].loc[run[OURS].index] for name in (OURS, label)))
            if not found.pairs:
                continue
            better = (found.low > 0) - (found.high < 0) if higher else (found.high < 0) - (found.low > 0)
            kind = {1: "ahead of", 0: "ties with", -1: "behind"}[int(better)]
            groups[kind].append(f"{label} {number(found.mean, digits, '+')}")
        said = "; ".join(f"{kind} {', '.join(names)}" for kind, names in groups.items() if names)
        lines.append(f"- **{head.strip(' ↑↓')}**: {said}.")
    return "\n".join(lines)


def kinds_table(files: Mapping[str, Path]) -> str:
    """For each kind of scene M2IB, the best other, and the difference."""
    rows = []
    for kind, path in files.items():
        run, cells = scores(path), []
        for head in FIRST_THREE:
            metric, higher, digits = MEASURED[head]
            means = {label: frame[metric].mean() for label, frame in run.items() if label != OURS}
            other = (max if higher else min)(means, key=means.__getitem__)
            found = paired_interval(run[OURS][metric], run[other][metric].loc[run[OURS].index])
            mean = number(run[OURS][metric].mean(), digits)
            cells.append(f"{mean} / {number(means[other], digits)} {other}: {between(found, digits)}")
        rows.append([f"`{kind}`", *cells])
    return markdown(["kind", *FIRST_THREE], rows)


def exam_table(files: Mapping[str, Path]) -> str:
    """Hard scenes for every method, and how often a word for what is not there has less than those for what is."""
    run = scores(files["hard"])
    heads = [*FIRST_THREE, "rank accuracy", "share of the text map"]
    rows = [row.rpartition(" | ")[0] + " |" for row in methods_table([run], heads).splitlines()]  # without the seconds
    below = {label: absent_below(files["hard"].parent / label / "attributions") for label in run}
    best = max(round(mean, 2) for mean in below.values() if not np.isnan(mean))
    cells = ["absent word weaker", "---"]
    for mean in below.values():
        cells.append(f"**{number(mean, 2)}**" if round(mean, 2) == best else number(mean, 2))
    table = "\n".join(f"{row} {cell} |" for row, cell in zip(rows, cells, strict=True))
    return f"{table}\n\nM2IB against each other, paired:\n\n{standing(run, heads)}"


def models_table(files: Mapping[str, Path]) -> str:
    """Several models side by side in each cell, and how M2IB stands on each."""
    runs = {name: scores(path) for name, path in files.items()}
    table = methods_table(list(runs.values()), FIRST_THREE)
    said = [f"{name}, M2IB against each other, paired:\n\n{standing(run, FIRST_THREE)}" for name, run in runs.items()]
    return "\n\n".join([table, *said])


def absent_table(files: Mapping[str, Path]) -> str:
    """How many words speak against their pair."""
    rows = (
        [row["words for"], str(row["words"]), number(row["effect below 0"], 2), number(row["mean effect"], 3)]
        for row in rows_of(files["absent"])
    )
    return markdown(["words for what is", "words", "share whose effect is below 0", "mean effect"], rows)


def absent_below(folder: Path) -> float:
    """The share of hard scenes with a word for what is not there in which it has less than the words for what is.

    Strongest token against strongest token; nan where the method explains no text.
    """
    found = []
    for a in AttributionStore(folder):
        scene = make_scene(int(a.id.rpartition("-")[2]), kind="hard")
        if scene.absent and a.text_map is not None:
            absent, named = (_strongest(a, spans) for spans in (scene.absent, scene.spans))
            found.append(absent < named)
    return float(np.mean(found)) if found else float("nan")


def _strongest(a: Attribution, spans: Sequence[tuple[int, int]]) -> float:
    """The highest value of the tokens that share a character with one of the spans."""
    shared = [any(start < e and s < end for s, e in spans) for start, end in a.spans]
    return float(np.asarray(a.text_map)[shared].max())


def sanity_table(files: Mapping[str, Path]) -> str:
    """What maps do when the model, the text or the picture is changed."""
    run = scores(files["sanity"])
    heads = {
        "random weights ↓": ("image/RandomisationSimilarity", 2),
        "nonsense prompt ↓": ("image/NonsensePrompt", 2),
        "noisy picture ↓": ("image/MaxSensitivity", 3),
        "infidelity, image ↓": ("image/Infidelity", 4),
        "infidelity, text ↓": ("text/Infidelity", 4),
    }
    columns = [column([f[metric].mean() for f in run.values()], digits, False) for metric, digits in heads.values()]
    return markdown(["", *heads], zip(run, *columns, strict=True))


def losses_table(files: Mapping[str, Path]) -> str:
    """A row for each setting of the loss."""
    digits = {"highest on object": 2, "on object": 2, "patches": 1, "on word": 2, "image cos": 2, "text cos": 2}
    rows = rows_of(files["losses"])
    return markdown(
        ["loss", *digits], ([row["loss"], *(number(row[head], n) for head, n in digits.items())] for row in rows)
    )


def keep_table(files: Mapping[str, Path]) -> str:
    """A row for the default's betas and for each share that is kept."""
    rows = rows_of(files["keep"])
    two = {"holds": 3, "fresh": 3, "lowest": 2, "median": 2}
    one = {"pointing": 2, "mass": 2, "word first": 2, "time": 2}
    cells = (
        [
            row["setting"],
            *(f"{number(row[f'image {head}'], n)} / {number(row[f'text {head}'], n)}" for head, n in two.items()),
            *(number(row[head], n) for head, n in one.items()),
        ]
        for row in rows
    )
    return markdown(["", *two, *one], cells)


def reader_table(files: Mapping[str, Path]) -> str:
    """A row for the fit, for Grad-ECLIP, for a reader alone and for a few steps from it and from the ordinary start."""
    two = {"Pearson": 3, "lowest": 2}
    one = {"pointing": 3, "mass": 3, "word first": 2, "time": 2}
    cells = (
        [
            row["way"],
            *(number(row[head], n) for head, n in one.items()),
            *(f"{number(row[f'image {head}'], n)} / {number(row[f'text {head}'], n)}" for head, n in two.items()),
        ]
        for row in rows_of(files["reader"])
    )
    return markdown(["", *one, *two], cells)


def verdicts_table(files: Mapping[str, Path]) -> str:
    """A row for each kind of pairs: how many are flagged, why, and whether the maps point."""
    rows, shown = rows_of(files["verdicts"]), []
    for row in rows:
        reasons = ((number(row[verdict], 2), verdict.replace("_", " ")) for verdict in VERDICTS[1:] if row[verdict])
        points = ["" if row[name] is None else number(row[name], 2) for name in ("points", "names")]
        shown.append(
            [row["pairs"], str(row["count"]), f"{row['flagged']:.1%}", ", ".join(map(" ".join, reasons)), *points]
        )
    heads = ["pairs", "how many", "flagged", "why, shares", "highest pixel on the object", "naming word leads"]
    totals = []
    for bad, name in ((False, "good pairs are flagged wrongly"), (True, "bad pairs are flagged")):
        counted = [row for row in rows if row["bad"] is bad]
        count = sum(row["count"] for row in counted)
        flagged = sum(row["count"] * row["flagged"] for row in counted)
        totals.append(f"{flagged:.0f} of {count} {name} ({flagged / count:.1%})")
    return f"{markdown(heads, shown)}\n\n{'; '.join(totals)}."


def settings_table(files: Mapping[str, Path]) -> str:
    """The picture of all curves is put beside the pages; the image's beta is said in numbers."""
    shutil.copy(files["search"].with_name("settings.png"), ROOT / "notebooks" / "pictures" / "settings.png")
    frame = pd.read_csv(files["search"])
    default = frame.iloc[0]
    others = ("image_layer", "steps", "noise_samples")
    alike = frame[(frame[list(others)].astype(str) == default[list(others)].astype(str)).all(axis=1)]
    alike = alike[alike["image pointing"].notna()].drop_duplicates("image_beta").sort_values("image_beta")
    heads = {
        "image mass": "share of the map",
        "image through": "cosine through the bottleneck",
        "clean": "clean cosine",
    }
    rows = ([f"{row['image_beta']:g}", *(number(row[key], 2) for key in heads)] for _, row in alike.iterrows())
    return markdown(["`image_beta`", *heads.values()], rows)


def calibration_table(files: Mapping[str, Path]) -> str:
    """The default and what was chosen, on scenes that it was not chosen on."""
    heads = ("setting", "image_layer", "image_beta", "text_layer", "text_beta")
    shares = ("highest pixel", "on object", "word leads", "image left", "text left")
    cells = (
        [*(str(row[key]) for key in heads), *(number(row[key], 2) for key in shares)] for row in rows_of(files["on"])
    )
    return markdown([*heads, *shares], cells)


def text_layers_table(files: Mapping[str, Path]) -> str:
    """How often the naming word leads with the text's bottleneck at each layer."""
    frame = pd.read_csv(files["search"])
    rows = frame[frame["text_beta"] == frame["text_beta"].iloc[0]].drop_duplicates("text_layer")
    rows = rows[rows["text word first"].notna()]
    heads = {"text word first": "naming word leads", "text through": "cosine through the bottleneck"}
    cells = ([f"`{row['text_layer']}`", *(number(row[key], 2) for key in heads)] for _, row in rows.iterrows())
    return markdown(["`text_layer`", *heads.values()], cells)


def demo(files: Mapping[str, Path]) -> str:
    """What the first fit prints, and its picture beside the pages."""
    picture = files["demo"].parent / "run" / "pictures" / "scene-000001.png"
    shutil.copy(picture, ROOT / "notebooks" / "pictures" / "quickstart.png")
    lines = [line.rstrip() for line in files["demo"].read_text("utf-8").splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith(" pair"))
    scene = next(i for i, line in enumerate(lines) if line.startswith(" scene-000001"))
    written = [re.sub(r"\S*/run/", "OUTPUT/", line) for line in lines[lines.index("Written:") :] if "Epoch" not in line]
    return "\n".join(["```text", *lines[start : start + 3], *lines[scene : scene + 2], " ...", *written, "```"])


def ideas_table(files: Mapping[str, Path]) -> str:
    """Each idea's means, and in brackets the interval of its difference to the default."""
    heads = {name: MEASURED[name] for name in list(MEASURED)[:4]}
    rows = []
    for row in rows_of(files["ideas"]):
        cells = [row["map"]]
        for metric, _, digits in heads.values():
            found = Interval(*(row[f"{metric} {part}"] for part in ("change", "low", "high")), 1)
            change = "" if row["map"] == "default" else f", {between(found, max(2, digits))}"
            cells.append(number(row[metric], digits) + change)
        rows.append(cells)
    return markdown(["map", *heads], rows)


def phrases_table(files: Mapping[str, Path]) -> str:
    """A row for each method or way, a column for each part: highest patch touches / share / share on the other."""
    rows = [row for path in files.values() for row in rows_of(path)]
    parts = list(dict.fromkeys(row["part"] for row in rows))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        shown = ("touches", "share", "other", "against")
        values = " / ".join(number(row[name], 2 + (name == "other")) for name in shown if not np.isnan(row[name]))
        cells.setdefault((row["method"], row["out"]), {})[row["part"]] = values
    several = len({out for _, out in cells}) > 1
    return markdown(
        ["", *parts],
        ([out if several else name, *(of.get(part, "") for part in parts)] for (name, out), of in cells.items()),
    )


def backbones_table(files: Mapping[str, Path]) -> str:
    """A row for each family: how many were compared, and the largest errors over the largest value."""
    frame = pd.DataFrame(rows_of(files["backbones"]))
    rows = []
    for family, some in frame.groupby("family", sort=False):
        read = some[some["refused"] == ""]
        errors = [f"{read[name].astype(float).max():.0e}" if len(read) else "–" for name in ("outputs", "gradients")]
        rows.append([str(family), str(len(read)), str(len(some) - len(read)), *errors])
    return markdown(["family", "configurations", "refused by name", "outputs", "gradients"], rows)


def speed_table(files: Mapping[str, Path]) -> str:
    """Seconds of a pair in several ways."""
    found = json.loads(files["speed"].read_text())
    heads = {"seconds_per_pair": 2, "times_faster": 0, "floor_ratio": 2, "peak_mb": 0, "pearson_float32": 4}
    rows = (
        [row["way"], *(number(row[head], digits) if head in row else "" for head, digits in heads.items())]
        for row in found["rows"]
    )
    names = ["seconds a pair", "times faster", "over the floor", "peak MB beyond the model", "Pearson with float32"]
    start = ", ".join(f"{name} {number(value, 1)} s" for name, value in found["start_up"].items())
    return f"{markdown(['', *names], rows)}\n\nStarting: {start}."


def scaling_table(files: Mapping[str, Path]) -> str:
    """Seconds of a pair against what a user may change."""
    rows = []
    for row in json.loads(files["scaling"].read_text())["scaling"]:
        change = next((f"{row[k]} {k.replace('_', ' ')}" for k in ("noise_samples", "steps", "pairs") if k in row), "")
        rows.append([row["model"], change, number(row["seconds_per_pair"], 3)])
    return markdown(["model", "changed", "seconds a pair"], rows)


def watching_table(files: Mapping[str, Path]) -> str:
    """The medians of each number of noise samples."""
    rows = []
    for name, path in files.items():
        last = rows_of(path)[-1]
        seconds = [number(last[key], 1) for key in ("alone", "watching")]
        rows.append([name, *seconds, f"{100 * last['of the rest']:.0f} %"])
    return markdown(["noise samples", "a fit of eight pairs, s", "watching, s", "of the rest"], rows)


def many_table(files: Mapping[str, Path]) -> str:
    """What a pair costs, and so what a million and a billion do."""
    (row,) = rows_of(files["many"])
    computing, decoding = (row[f"seconds of {what}"] / 3600 for what in ("computing", "decoding"))
    said = [
        f"{row['seconds of computing']:.2f} s of computing with the embedded model",
        f"{1000 * row['seconds of decoding']:.0f} ms to decode a photograph of 640 x 480 pixels",
        f"{row['bytes, its own map']:.0f} bytes in the store with the model's own map",
        f"{row['bytes, 24 x 24']:.0f} bytes (float16 {row['bytes, 24 x 24, float16']:.0f}) with one of 24 x 24",
        f"{row['ids a second']:.0f} ids a second read when a run is resumed",
    ]
    heads = ["", "computing, core hours", "decoding, core hours", "store, 24 x 24", "parts", "resuming reads ids in"]
    rows = []
    for name, pairs, parts in (("10^6 pairs", 1e6, "2,000"), ("10^9 pairs", 1e9, "2 million")):
        hours = [f"{pairs * each:,.0f}" for each in (computing, decoding)]
        rows.append(
            [
                name,
                *hours,
                f"{pairs * row['bytes, 24 x 24'] / 1e9:,.0f} GB",
                parts,
                f"{pairs / row['ids a second']:,.0f} s",
            ]
        )
    return f"A pair costs one core {'; '.join(said)}.\n\n{markdown(heads, rows)}"


def last_lines(files: Mapping[str, Path]) -> str:
    """What each command said at its end."""
    return "\n".join(f"- {path.read_text().strip().splitlines()[-1].strip()}" for path in files.values())


def of_scores(
    render: Callable[[list[dict[str, pd.DataFrame]]], str],
) -> Callable[[Mapping[str, Path]], str]:
    """A rendering that gets the scores of each run."""
    return lambda files: render([scores(path) for path in files.values()])
