#!/usr/bin/env python
"""Find the fewest noise samples and steps that give the same maps.

    python scripts/cost_and_quality.py
    python scripts/cost_and_quality.py --released

For each number of steps and samples: Pearson correlation of the maps with those of 64 other samples and as many steps
("same steps"), and of 64 samples and 30 steps ("converged"), mean over scenes and the 5 % worst; localisation; and
the cost, in noisy forward passes of each tower. Samples marked +- are antithetic: half of them are the others negated.
Prints a table and writes it to a JSON file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluate_scenes import names_first, on_object
from rich.console import Console
from rich.table import Table

from m2ib_lightning import M2IB, RELEASED, Attribution, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene, make_scene
from m2ib_lightning.types import Pair

SAMPLES = ((1, False), (2, False), (2, True), (4, False), (4, True), (10, False), (10, True))
STEPS = (7, 10, 15)
REFERENCE_SAMPLES, CONVERGED_STEPS = 64, 30


def explain(backbone: Backbone, scenes: Sequence[Scene], **arguments: Any) -> list[Attribution]:
    """All scenes, none of which stops early."""
    method = M2IB(backbone, **{"tolerance": None, **arguments})
    pairs = [Pair(str(i), scene.image, scene.caption) for i, scene in enumerate(scenes)]
    batches = [pairs[start : start + 20] for start in range(0, len(pairs), 20)]
    return [a for batch in batches for a in method.attribute(backbone.preprocess_pairs(batch))]


def correlations(found: Sequence[Attribution], reference: Sequence[Attribution], modality: str) -> np.ndarray:
    """Pearson correlation of the maps of each pair; of a text, of its content tokens."""
    values = []
    for a, b in zip(found, reference, strict=True):
        keep = ~a.special if modality == "text" else slice(None)
        x, y = (getattr(r, f"{modality}_map")[keep].ravel() for r in (a, b))
        values.append(np.corrcoef(x, y)[0, 1])
    return np.array(values)


def row(found: Sequence[Attribution], scenes: Sequence[Scene], references: dict[str, list[Attribution]]) -> dict:
    numbers: dict[str, float] = {}
    for name, reference in references.items():
        for modality in ("image", "text"):
            r = correlations(found, reference, modality)
            numbers[f"{modality} {name}"], numbers[f"{modality} {name}, worst"] = r.mean(), np.quantile(r, 0.05)
    pointing, mass = np.mean([on_object(a, s) for a, s in zip(found, scenes, strict=True)], 0)
    words = np.mean([names_first(a, s) for a, s in zip(found, scenes, strict=True)])
    return {key: float(v) for key, v in numbers.items()} | {
        "pointing": float(pointing), "mass": float(mass), "word first": float(words)
    }  # fmt: skip


def study(backbone: Backbone, scenes: Sequence[Scene], setting: dict[str, Any], console: Console) -> list[dict]:
    reference = dict(setting, noise_samples=REFERENCE_SAMPLES, seed=1)
    converged = explain(backbone, scenes, **reference, steps=CONVERGED_STEPS)
    rows = []
    for steps in STEPS:
        same = explain(backbone, scenes, **reference, steps=steps)
        references = {"same steps": same, "converged": converged}
        plan = [*SAMPLES, *([(REFERENCE_SAMPLES, False)] if steps == 10 else [])]
        for samples, antithetic in plan:
            made = dict(setting, noise_samples=samples, antithetic=antithetic, steps=steps)
            found = explain(backbone, scenes, **made)
            rows.append({"steps": steps, "samples": samples, "antithetic": antithetic, "passes": steps * samples})
            rows[-1] |= row(found, scenes, references)
            console.print(f"  {steps} steps, {samples} samples{' +-' if antithetic else ''}: {rows[-1]['mass']:.3f}")
    return rows


def show(rows: list[dict], console: Console) -> None:
    names = ("same steps", "converged")
    columns = [f"{m} {n}" for n in names for m in ("image", "text")]
    table = Table("steps", "samples", "passes", *columns, "pointing", "mass", "word first")
    for r in rows:
        values = [f"{r[c]:.4f} ({r[f'{c}, worst']:.3f})" for c in columns]
        places = [f"{r[c]:.3f}" for c in ("pointing", "mass", "word first")]
        sign = " +-" if r["antithetic"] else ""
        table.add_row(str(r["steps"]), f"{r['samples']}{sign}", str(r["passes"]), *values, *places)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--first", type=int, default=20000, help="seed of the first scene")
    parser.add_argument("--released", action="store_true", help="the setting of the paper's released code")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--output", type=Path, default=Path("outputs/cost_and_quality.json"))
    arguments = parser.parse_args()
    console = Console(width=160)
    scenes = [make_scene(seed) for seed in range(arguments.first, arguments.first + arguments.scenes)]
    setting = RELEASED if arguments.released else {}
    rows = study(load_backbone(arguments.backbone), scenes, setting, console)
    show(rows, console)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"released": arguments.released, "rows": rows}, indent=1))
    console.print(f"Written: {arguments.output}")


if __name__ == "__main__":
    main()
