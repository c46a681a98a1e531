#!/usr/bin/env python
"""Measure whether words for what is not there speak against their pair, on hard scenes.

    python scripts/absent_words.py --scenes 500

The effect of a phrase is the pair's similarity minus that without it. A word for what is not there is flagged where its
effect is below 0; a word for what is there should not be.
"""

from __future__ import annotations

import numpy as np
from on_scenes import keep, options_of

from m2ib_lightning import load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.targets import WithoutPhrase, effects
from m2ib_lightning.types import Pair


def main() -> None:
    """Measure the effects of words for what is there and for what is not, and keep the rows."""
    options = options_of(__doc__, scenes=500, scene_seed=60_000, output="outputs/absent_words").parse_args()
    backbone, found = load_backbone(options.backbone), {"absent": [], "there": []}
    for seed in range(options.scene_seed, options.scene_seed + options.scenes):
        scene = make_scene(seed, kind="hard")
        spans = [*scene.absent, *scene.spans]
        batch = backbone.preprocess_pairs([Pair(str(seed), scene.image, scene.text)] * len(spans))
        sizes = effects(backbone, batch, WithoutPhrase(spans).directions(backbone, batch)).tolist()
        found["absent"] += sizes[: len(scene.absent)]
        found["there"] += sizes[len(scene.absent) :]
    rows = [
        {"words for": name, "words": len(sizes), "effect below 0": float(np.mean(np.array(sizes) < 0)),
         "mean effect": float(np.mean(sizes))}
        for name, sizes in found.items()
    ]  # fmt: skip
    keep(rows, options)


if __name__ == "__main__":
    main()
