#!/usr/bin/env python
"""Measure how well maps find what captions name, on composed scenes: three objects, one named.

    python scripts/evaluate_scenes.py --scenes 200 --first 0
    python scripts/evaluate_scenes.py --released

Prints the share of scenes whose highest pixel lies on the named object, the share of the map's mass on it, the share of
captions whose naming word leads the others, and the similarity that is left through the bottleneck.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from m2ib_lightning import M2IB, RELEASED, Attribution, load_backbone
from m2ib_lightning.data import Scene, make_scene
from m2ib_lightning.types import Pair


def on_object(result: Attribution, scene: Scene) -> tuple[float, float]:
    """Whether the highest pixel lies on the named object, and the share of the map's mass that does."""
    heat = result.heatmap(scene.mask.shape)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert result.image_map is not None
    cells = np.array(scene.mask.shape) // result.image_map.shape
    mass = np.kron(result.image_map, np.ones(cells))
    return float(scene.mask[row, column]), float((mass * scene.mask).sum() / mass.sum())


def names_first(result: Attribution, scene: Scene) -> float:
    """Whether the token that names the object has the highest value of all content tokens."""
    assert result.text_map is not None
    content = np.where(result.special, -np.inf, result.text_map)
    start, end = result.spans[int(content.argmax())]
    return float(scene.spans[0][0] <= start < end <= scene.spans[0][1])


def evaluate(method: M2IB, first: int, count: int, batch_size: int = 20) -> dict[str, float]:
    """The numbers over the scenes of seeds first .. first + count - 1."""
    backbone = method.prepare()
    rows: dict[str, list[float]] = {name: [] for name in ("pointing", "mass", "word_first", "image_cos", "text_cos")}
    started = time.perf_counter()
    for start in range(first, first + count, batch_size):
        scenes = [make_scene(seed) for seed in range(start, min(start + batch_size, first + count))]
        pairs = [Pair(str(i), scene.image, scene.caption) for i, scene in enumerate(scenes)]
        for result, scene in zip(method.attribute(backbone.preprocess_pairs(pairs)), scenes, strict=True):
            if result.image_map is not None:
                pointing, mass = on_object(result, scene)
                rows["pointing"].append(pointing)
                rows["mass"].append(mass)
                rows["image_cos"].append(result.image_score)
            if result.text_map is not None:
                rows["word_first"].append(names_first(result, scene))
                rows["text_cos"].append(result.text_score)
    numbers = {name: float(np.mean(values)) for name, values in rows.items() if values}
    return numbers | {"seconds_per_pair": (time.perf_counter() - started) / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--released", action="store_true", help="the setting of the paper's released code")
    parser.add_argument("--backbone", default="embedded")
    arguments = parser.parse_args()
    method = M2IB(load_backbone(arguments.backbone), **(RELEASED if arguments.released else {}))
    for name, value in evaluate(method, arguments.first, arguments.scenes).items():
        print(f"{name:>17}  {value:.3f}")


if __name__ == "__main__":
    main()
