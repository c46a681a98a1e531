#!/usr/bin/env python
"""Find the cheapest schedule of a fit whose maps are as good, on held-out scenes: three objects, one named.

    python scripts/cost_and_quality.py 10,1,5,4 5,2,5,2 --scenes 60 --scene_seed 120000
    python scripts/cost_and_quality.py 10,1,5,4 6,1.5,2,2 --backbone FOLDER --modalities text

A schedule is steps, learning rate, logit that the masks start from and noise samples, and perhaps Adam's two betas.
The first one is what the others are compared with: Pearson correlation of the maps (of a text, of its content tokens),
mean and the 5 % worst; each measure with its 95 % interval, and whether all means lie in the first one's; the
similarity that comes through at the end; the time.
The two modalities are fitted apart. Maps are kept in OUTPUT, so that a run which was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from on_scenes import correlations, drawn, keep, names_first, on_object, options_of, pairs_of
from rich.progress import track

from m2ib_lightning import M2IB, Attribution, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene
from m2ib_lightning.evaluation import interval
from m2ib_lightning.types import Modality

BATCH = 20


class Schedule(NamedTuple):
    """How the masks of a tower are fitted."""

    steps: float
    lr: float
    start: float
    samples: float
    beta1: float = 0.9
    beta2: float = 0.999

    @classmethod
    def read(cls, text: str) -> Schedule:
        """A schedule as it is typed."""
        return cls(*map(float, text.split(",")))

    def __str__(self) -> str:
        return ",".join(f"{value:g}" for value in self)

    def method(self, backbone: Backbone, modality: Modality) -> M2IB:
        """M2IB with this schedule, no pair stopping early."""
        optimizer = partial(torch.optim.Adam, betas=(self.beta1, self.beta2))
        return M2IB(
            backbone, [modality], steps=int(self.steps), lr=self.lr, initial_alpha=self.start, optimizer=optimizer,
            noise_samples=int(self.samples), antithetic=self.samples > 1, tolerance=None,
        )  # fmt: skip


def fitted(method: M2IB, scenes: Sequence[Scene], file: Path) -> tuple[list[Attribution], float]:
    """What a method says of some scenes, and the processor's seconds; from the file if they are there."""
    if not file.is_file():
        batch = method.prepare().preprocess_pairs(pairs_of(scenes))
        began = time.process_time()
        found = method.attribute(batch)
        torch.save((found, time.process_time() - began), file)
    made: tuple[list[Attribution], float] = torch.load(file, weights_only=False)
    return made


def measures(found: Sequence[Attribution], scenes: Sequence[Scene], modality: Modality) -> dict[str, np.ndarray]:
    """How well each map finds what is named."""
    if modality == "text":
        return {"word first": np.array([names_first(*each) for each in zip(found, scenes, strict=True)])}
    highest, share = np.array([on_object(*each) for each in zip(found, scenes, strict=True)]).T
    return {"highest": highest, "share": share}


def row_of(
    schedule: Schedule, modality: Modality, made: dict[Schedule, list[Attribution]], scenes: Sequence[Scene]
) -> dict[str, object]:
    """The numbers of a schedule, beside those of the first one."""
    first = next(iter(made))
    r = correlations(made[schedule], made[first], modality)
    row: dict[str, object] = {"modality": modality, "schedule": str(schedule)}
    row |= {"r": float(r.mean()), "r worst": float(np.quantile(r, 0.05)), "highest": "", "share": "", "word first": ""}
    before, within = measures(made[first], scenes, modality), []
    for name, values in measures(made[schedule], scenes, modality).items():
        mean, low, high, _ = interval(values)
        _, least, most, _ = interval(before[name])
        row[name] = f"{mean:.3f} ({low:.3f}-{high:.3f})"
        within.append(least <= mean <= most)
    left = float(np.mean([a.score_through(modality) for a in made[schedule]]))
    return row | {"within": "yes" if all(within) else "no", "similarity left": left}


def main() -> None:
    """Fit every schedule and print what it costs and gives."""
    parser = options_of(__doc__, scenes=60, scene_seed=120_000, output="outputs/cost_and_quality")
    parser.add_argument("schedules", nargs="+", type=Schedule.read)
    parser.add_argument("--modalities", nargs="+", choices=["image", "text"], default=["image", "text"])
    options = parser.parse_args()
    scenes, backbone = drawn(options), load_backbone(options.backbone)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for modality in options.modalities:
        made: dict[Schedule, list[Attribution]] = {schedule: [] for schedule in options.schedules}
        seconds = dict.fromkeys(made, 0.0)
        for start in track(range(0, len(scenes), BATCH), modality):
            for schedule in made:
                name = f"{backbone.weight_hash[:8]} {modality} {schedule} {options.scene_seed + start}.pt"
                some = scenes[start : start + BATCH]
                found, took = fitted(schedule.method(backbone, modality), some, options.output / name)
                made[schedule] += found
                seconds[schedule] += took
        base = seconds[next(iter(made))]
        rows += [row_of(schedule, modality, made, scenes) | {"time": seconds[schedule] / base} for schedule in made]
    keep(rows, options)


if __name__ == "__main__":
    main()
