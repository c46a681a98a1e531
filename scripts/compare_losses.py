#!/usr/bin/env python
"""What each loss term changes in the maps, on composed scenes: three objects, one named.

    python scripts/compare_losses.py --scenes 60 --first 30000

A row per setting, all else at its default. "on object" is the share of the image map on the named object, "patches" how
many of the highest ones hold 90 % of it, "on word" the naming word's share of what lies on words; similarities are
through the bottleneck. Every number is a mean over scenes.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from evaluate_scenes import on_object
from rich.console import Console
from rich.table import Table

from m2ib_lightning import M2IB, Attribution, LossTerm, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene, make_scene, object_names
from m2ib_lightning.losses import (
    AdaptiveCompression,
    Agreement,
    Compression,
    ContrastiveRelevance,
    Relevance,
    ScheduledCompression,
    Sparsity,
    TotalVariation,
)
from m2ib_lightning.types import Pair

HEADS = ("highest on object", "on object", "patches", "image nats", "image cos", "on word", "text nats", "text cos")


def variants() -> dict[str, list[LossTerm]]:
    """The terms of each setting, by what it is called in the table."""
    plain = [Compression(), Relevance()]
    classes = [f"a photo of a {name}" for name in object_names()]
    pictures = [make_scene(40_000 + i).image for i in range(64)]
    told_from = ContrastiveRelevance(classes, pictures)
    unweighed = Relevance(0.0)  # only to be logged
    return {
        "compression, relevance": plain,
        "+ total variation, 3": [*plain, TotalVariation(3.0)],
        "+ total variation, 10": [*plain, TotalVariation(10.0)],
        "+ sparsity, 1": [*plain, Sparsity(1.0)],
        "+ sparsity, 10": [*plain, Sparsity(10.0)],
        "+ contrastive, 0.1": [*plain, ContrastiveRelevance(classes, pictures, weight=0.1)],
        "contrastive for relevance": [Compression(), unweighed, told_from],
        "beta from 0 in 5 steps": [ScheduledCompression(0.0, 5), Relevance()],
        "beta from 3 times in 5 steps": [ScheduledCompression(3.0, 5), Relevance()],
        "adaptive, keep 0.9": [AdaptiveCompression(0.9), Relevance()],
        "adaptive, keep 0.7": [AdaptiveCompression(0.7), Relevance()],
        "adaptive, keep 0.5": [AdaptiveCompression(0.5), Relevance()],
        "+ agreement, 1": [*plain, Agreement()],
        "agreement for relevance": [Compression(), unweighed, Agreement()],
    }


def measure(result: Attribution, scene: Scene) -> tuple[float, ...]:
    """A value for each of `HEADS`."""
    assert result.image_map is not None and result.text_map is not None
    nats = np.sort(result.image_map.ravel())[::-1]
    patches = int((nats.cumsum() < 0.9 * nats.sum()).sum()) + 1
    words = [
        (v, start) for v, (start, _), s in zip(result.text_map, result.spans, result.special, strict=True) if not s
    ]
    left, right = scene.spans[0]
    naming = sum(v for v, start in words if left <= start < right)
    share = naming / max(1e-9, sum(v for v, _ in words))
    text_nats = float(result.text_map.sum())
    return (
        *on_object(result, scene),
        patches,
        float(nats.sum()),
        result.image_score,
        share,
        text_nats,
        result.text_score,
    )


def evaluate(backbone: Backbone, terms: list[LossTerm], scenes: list[Scene], **arguments: Any) -> np.ndarray:
    """(scenes, len(HEADS))."""
    method = M2IB(backbone, loss_terms=terms, **arguments)
    method.prepare()
    rows = []
    for start in range(0, len(scenes), 20):
        some = scenes[start : start + 20]
        pairs = [Pair(str(i), scene.image, scene.caption) for i, scene in enumerate(some)]
        rows += [measure(*both) for both in zip(method.attribute(backbone.preprocess_pairs(pairs)), some, strict=True)]
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--first", type=int, default=30_000, help="seed of the first scene")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--only", default="", help="part of a row's name")
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone)
    scenes = [make_scene(seed) for seed in range(arguments.first, arguments.first + arguments.scenes)]
    table = Table("loss", *HEADS)
    for name, terms in variants().items():
        if arguments.only in name:
            found = evaluate(backbone, terms, scenes, steps=arguments.steps).mean(0)
            table.add_row(name, *(f"{value:.3g}" for value in found))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
