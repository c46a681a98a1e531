#!/usr/bin/env python
"""Measure how far a trained reader of masks stands in for the fit, alone and as the start of a step.

    m2ib train-reader --output outputs/reader
    python scripts/measure_reader.py --reader outputs/reader --scenes 200 --scene_seed 310000

A row per way: the fit at its default, Grad-ECLIP, the reader with 0 steps and with 1, and as many from the ordinary
start. "time" is against Grad-ECLIP's, batch by batch in turns; Pearson is with the maps of the fit, pair by pair.
"""

from __future__ import annotations

import time

import numpy as np
from on_scenes import correlations, drawn, keep, names_first, on_object, options_of, pairs_of
from rich.progress import track

from m2ib_lightning import M2IB, Attribution, AttributionMethod, load_backbone
from m2ib_lightning.methods import GradECLIP
from m2ib_lightning.types import MODALITIES

BATCH = 20


def alike(found: list[Attribution], fitted: list[Attribution]) -> dict[str, float]:
    """Pearson correlations with the maps of the fit: the mean over pairs and the pair at their lowest twentieth."""
    row = {}
    for m in MODALITIES:
        each = correlations(found, fitted, m)
        row |= {f"{m} Pearson": float(np.nanmean(each)), f"{m} lowest": float(np.nanquantile(each, 0.05))}
    return row


def main() -> None:
    """Explain the scenes in every way, in turns so that times compare."""
    parser = options_of(__doc__, scenes=200, scene_seed=310_000, output="outputs/reader-measured")
    parser.add_argument("--reader", required=True, help="folder that `m2ib train-reader` wrote")
    parser.add_argument("--steps", type=int, nargs="*", default=[1], help="steps that are made from a start")
    parser.add_argument("--lr", type=float, default=1.0, help="learning rate of the steps from the reader's masks")
    options = parser.parse_args()
    backbone, scenes = load_backbone(options.backbone), drawn(options)
    ways: dict[str, AttributionMethod] = {"fit": M2IB(backbone), "Grad-ECLIP": GradECLIP(backbone)}
    for steps in [0, *options.steps]:
        name = f"reader, {steps} steps" if steps else "reader alone"
        ways[name] = M2IB(backbone, reader=options.reader, steps=steps, lr=options.lr)
    ways |= {f"{steps} steps": M2IB(backbone, steps=steps) for steps in options.steps}
    found: dict[str, list[Attribution]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for method in ways.values():
        method.attribute(method.prepare().preprocess_pairs(pairs_of(scenes[:1])))
    for start in track(range(0, len(scenes), BATCH), "Batches"):
        batch = backbone.preprocess_pairs(pairs_of(scenes[start : start + BATCH]))
        for name, method in ways.items():
            began = time.process_time()
            found[name] += method.attribute(batch)
            seconds[name] += time.process_time() - began
    rows = []
    for name, results in found.items():
        pointing, mass = np.mean([on_object(*each) for each in zip(results, scenes, strict=True)], 0)
        first = np.mean([names_first(*each) for each in zip(results, scenes, strict=True)])
        said = {"pointing": float(pointing), "mass": float(mass), "word first": float(first)}
        rows.append(
            {"way": name, "time": seconds[name] / seconds["Grad-ECLIP"], **said, **alike(results, found["fit"])}
        )
    keep(rows, options)


if __name__ == "__main__":
    main()
