#!/usr/bin/env python
"""Measure whether `keep` holds, what it costs and how well its maps find what is named, beside the default's betas.

    python scripts/measure_keep.py --scenes 200 --scene_seed 70000
    python scripts/measure_keep.py --scenes 40 --backbone /path/to/a/checkpoint

A row per setting. "holds" is the share of pairs of which at least `keep` of the clean similarity is left, in the image
and in the text, "fresh" the same with 16 noise samples of another seed, "lowest" the smallest share left of any pair.
"time" is against the default's, batch by batch in turns.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from on_scenes import drawn, keep, names_first, on_object, options_of, pairs_of
from rich.progress import track

from m2ib_lightning import M2IB, Attribution, load_backbone
from m2ib_lightning.bottleneck import NoiseBank
from m2ib_lightning.data import Scene
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.types import MODALITIES, PairBatch

KEEPS = (0.8, 0.9, 0.95)
BATCH = 20


def fitted(method: M2IB, batch: PairBatch) -> MaskFit:
    """The fit of a batch after all its steps."""
    fit = method.new_fit(batch)
    optimizer = method.new_optimizer(fit.parameters())
    for _ in range(method.steps):
        fit.step(optimizer)
    fit.held()
    return fit


@torch.no_grad()
def left_with_fresh_noise(fit: MaskFit) -> list[tuple[float, ...]]:
    """Similarities through the image's and the text's bottleneck, with noise that the masks were not fitted to."""
    held, fit.noise = fit.held(), NoiseBank(12345, 16, antithetic=True)
    through = [fit.let_through(m, held[m].alpha if held else fit.bottleneck(m).alpha.detach()) for m in MODALITIES]
    return list(zip(*(masks.relevance.tolist() for masks in through), strict=True))


def numbers(found: list[Attribution], fresh: list[tuple[float, ...]], scenes: list[Scene]) -> dict[str, Any]:
    """What is said of one setting."""
    same = np.array([(a.image_score / a.score, a.text_score / a.score) for a in found])
    other = np.array(fresh) / np.array([[a.score] for a in found])
    share = found[0].settings.get("keep")
    row: dict[str, Any] = {}
    for i, m in enumerate(MODALITIES):
        if share:
            row |= {
                f"{m} holds": float((same[:, i] >= share).mean()),
                f"{m} fresh": float((other[:, i] >= share).mean()),
            }
        else:
            row |= {f"{m} holds": float("nan"), f"{m} fresh": float("nan")}
        row |= {f"{m} lowest": float(same[:, i].min()), f"{m} lowest fresh": float(other[:, i].min())}
        row[f"{m} median"] = float(np.median(other[:, i]))
    pointing, mass = np.mean([on_object(*each) for each in zip(found, scenes, strict=True)], 0)
    first = np.mean([names_first(*each) for each in zip(found, scenes, strict=True)])
    return row | {"pointing": float(pointing), "mass": float(mass), "word first": float(first)}


def main() -> None:
    """Explain the scenes in every setting, in turns so that times compare."""
    parser = options_of(__doc__, scenes=200, scene_seed=70_000, output="outputs/keep")
    options = parser.parse_args()
    backbone, scenes = load_backbone(options.backbone), drawn(options)
    methods = {"default": M2IB(backbone)} | {f"keep {share}": M2IB(backbone, keep=share) for share in KEEPS}
    found: dict[str, list[Attribution]] = {name: [] for name in methods}
    fresh: dict[str, list[tuple[float, ...]]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for method in methods.values():
        method.prepare()
    for start in track(range(0, len(scenes), BATCH), "Batches"):
        batch = backbone.preprocess_pairs(pairs_of(scenes[start : start + BATCH]))
        for name, method in methods.items():
            began = time.process_time()
            fit = fitted(method, batch)
            seconds[name] += time.process_time() - began
            found[name] += method.results(fit)
            fresh[name] += left_with_fresh_noise(fit)
    keep(
        [
            {"setting": name, "time": seconds[name] / seconds["default"], **numbers(found[name], fresh[name], scenes)}
            for name in methods
        ],
        options,
    )


if __name__ == "__main__":
    main()
