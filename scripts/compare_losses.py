#!/usr/bin/env python
"""Measure what each loss term changes in the maps, on composed scenes: three objects, one named.

    python scripts/compare_losses.py --scenes 60 --scene_seed 30000

A row per setting, all else at its default. "on object" is the share of the image map on the named object, "patches" how
many of the highest ones hold 90 % of it, "on word" the naming word's share of what lies on words; cosines are through
the bottleneck. Every number is a mean over scenes.
"""

from __future__ import annotations

import numpy as np
from on_scenes import drawn, explain, keep, on_object, options_of
from rich.progress import track

from m2ib_lightning import M2IB, Attribution, LossTerm, load_backbone
from m2ib_lightning.data import Scene, make_scene, object_names
from m2ib_lightning.losses import (
    Agreement,
    Compression,
    ContrastiveRelevance,
    Relevance,
    ScheduledCompression,
    Sparsity,
    TotalVariation,
)


def variants() -> dict[str, list[LossTerm]]:
    """The terms of each setting, by what it is called in the table."""
    plain = [Compression(), Relevance()]
    classes = [f"a photo of a {name}" for name in object_names()]
    pictures = [make_scene(40_000 + i).image for i in range(64)]
    told_from = ContrastiveRelevance(classes, pictures)
    unweighed = Relevance(0.0)  # only to be logged
    return {
        "`Compression`, `Relevance`": plain,
        "+ `TotalVariation`, weight 3: neighbouring masks alike": [*plain, TotalVariation(3.0)],
        "+ `TotalVariation`, 10": [*plain, TotalVariation(10.0)],
        "+ `Sparsity`, 1: every open channel costs the same": [*plain, Sparsity(1.0)],
        "+ `Sparsity`, 10": [*plain, Sparsity(10.0)],
        "+ `ContrastiveRelevance`, 0.1: told from all 66 classes": [
            *plain,
            ContrastiveRelevance(classes, pictures, weight=0.1),
        ],
        "`ContrastiveRelevance` for `Relevance`": [Compression(), unweighed, told_from],
        "`ScheduledCompression`, beta from 0 in 5 steps": [ScheduledCompression(0.0, 5), Relevance()],
        "`ScheduledCompression`, from 3 times beta in 5 steps": [ScheduledCompression(3.0, 5), Relevance()],
        "+ `Agreement`: both bottlenecks at once": [*plain, Agreement()],
        "`Agreement` for `Relevance`": [Compression(), unweighed, Agreement()],
    }


def measure(result: Attribution, scene: Scene) -> dict[str, float]:
    """One scene's numbers, by the heads of the table."""
    assert result.image_map is not None and result.text_map is not None
    nats = np.sort(result.image_map.ravel())[::-1]
    content = ~result.special
    naming = [scene.spans[0][0] <= start < scene.spans[0][1] for start, _ in result.spans]
    pointing, mass = on_object(result, scene)
    return {
        "highest on object": pointing,
        "on object": mass,
        "patches": int((nats.cumsum() < 0.9 * nats.sum()).sum()) + 1,
        "image nats": float(nats.sum()),
        "image cos": result.image_score,
        "on word": float(result.text_map[content & naming].sum() / max(1e-9, result.text_map[content].sum())),
        "text nats": float(result.text_map.sum()),
        "text cos": result.text_score,
    }


def main() -> None:
    """Measure every variant, or some."""
    parser = options_of(__doc__, scenes=60, scene_seed=30_000, output="outputs/losses")
    parser.add_argument("--steps", type=int, default=10, help="of each fit")
    parser.add_argument("--only", default="", help="part of a row's name")
    options = parser.parse_args()
    backbone, scenes, rows = load_backbone(options.backbone), drawn(options), []
    for name, terms in track(variants().items(), "Settings"):
        if options.only in name:
            results = explain(M2IB(backbone, loss_terms=terms, steps=options.steps), scenes)
            found = [measure(result, scene) for result, scene in zip(results, scenes, strict=True)]
            rows.append({"loss": name} | {head: float(np.mean([row[head] for row in found])) for head in found[0]})
    keep(rows, options)


if __name__ == "__main__":
    main()
