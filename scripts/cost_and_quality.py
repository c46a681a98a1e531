#!/usr/bin/env python
"""Find the fewest noise samples and steps that give the same maps.

    python scripts/cost_and_quality.py
    python scripts/cost_and_quality.py --released

For each number of steps and samples: Pearson correlation of the maps with those of 64 other samples and as many steps
("same steps"), and of 64 samples and 30 steps ("converged"), mean over scenes and the 5 % worst; localisation; and
the cost, in noisy forward passes of each tower. Antithetic samples are half of them the others negated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from on_scenes import drawn, explain, keep, names_first, on_object, options_of
from rich.progress import track

from m2ib_lightning import M2IB, RELEASED, Attribution, load_backbone
from m2ib_lightning.data import Scene

SAMPLES = ((1, False), (2, False), (2, True), (4, False), (4, True), (10, False), (10, True))
STEPS = (7, 10, 15)
REFERENCE_SAMPLES, CONVERGED_STEPS = 64, 30


def correlations(found: Sequence[Attribution], reference: Sequence[Attribution], modality: str) -> np.ndarray:
    """Pearson correlation of the maps of each pair; of a text, of its content tokens."""
    values = []
    for a, b in zip(found, reference, strict=True):
        content = ~a.special if modality == "text" else slice(None)
        x, y = (getattr(r, f"{modality}_map")[content].ravel() for r in (a, b))
        values.append(np.corrcoef(x, y)[0, 1])
    return np.array(values)


def numbers(
    found: Sequence[Attribution], scenes: Sequence[Scene], references: dict[str, list[Attribution]]
) -> dict[str, float]:
    """How near the maps are to those of each reference, and how well they find what is named."""
    row = {}
    for name, reference in references.items():
        for modality in ("image", "text"):
            r = correlations(found, reference, modality)
            row[f"{modality} {name}"], row[f"{modality} {name}, worst"] = float(r.mean()), float(np.quantile(r, 0.05))
    pointing, mass = np.mean([on_object(*each) for each in zip(found, scenes, strict=True)], 0)
    first = np.mean([names_first(*each) for each in zip(found, scenes, strict=True)])
    return row | {"pointing": float(pointing), "mass": float(mass), "word first": float(first)}


def main() -> None:
    """Fit every combination."""
    parser = options_of(__doc__, scenes=50, scene_seed=20_000, output="outputs/cost_and_quality")
    parser.add_argument("--released", action="store_true", help="the setting of the paper's released code")
    options = parser.parse_args()
    scenes, backbone = drawn(options), load_backbone(options.backbone)

    def fitted(**arguments: Any) -> list[Attribution]:
        """All scenes, none of which stops early."""
        setting = RELEASED if options.released else {}
        return explain(M2IB(backbone, **{**setting, "tolerance": None, **arguments}), scenes)

    converged = fitted(noise_samples=REFERENCE_SAMPLES, seed=1, steps=CONVERGED_STEPS)
    rows = []
    for steps in track(STEPS, "Steps"):
        same = fitted(noise_samples=REFERENCE_SAMPLES, seed=1, steps=steps)
        for samples, antithetic in (*SAMPLES, *([(REFERENCE_SAMPLES, False)] if steps == 10 else [])):
            found = fitted(noise_samples=samples, antithetic=antithetic, steps=steps)
            cost = {"steps": steps, "samples": samples, "antithetic": antithetic, "passes": steps * samples}
            rows.append(cost | numbers(found, scenes, {"same steps": same, "converged": converged}))
    keep(rows, options)


if __name__ == "__main__":
    main()
