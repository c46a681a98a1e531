#!/usr/bin/env python
"""Measure what `calibrate` gains over the defaults: it chooses on some composed scenes, and both are shown on others.

    python scripts/calibrated_on_scenes.py --scenes 60 --scene_seed 110000 --from 100000 --pairs 32

A row for the default and one for what was chosen, and with --every one for each cell of the grid, to see what truth
would have chosen: the share of scenes whose highest pixel lies on the named object, the share of the map on it, the
share of scenes whose naming word leads, and the similarity left through each bottleneck.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from on_scenes import drawn, explain, keep, names_first, on_object, options_of
from rich.progress import track

from m2ib_lightning import M2IB, Calibration, calibrate, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene, make_scene


def measure(backbone: Backbone, scenes: Sequence[Scene], arguments: dict[str, Any], batch: int) -> dict[str, Any]:
    """Means over the scenes; a tower that is not explained has none."""
    method = M2IB(backbone, **arguments)
    found = explain(method, scenes, batch)
    clean = np.mean([a.score for a in found])
    row: dict[str, Any] = {}
    if found[0].image_map is not None:
        places = np.array([on_object(a, s) for a, s in zip(found, scenes, strict=True)])
        left = float(np.mean([a.image_score for a in found]) / clean)
        row |= {
            "highest pixel": float(places[:, 0].mean()),
            "on object": float(places[:, 1].mean()),
            "image left": left,
        }
    if found[0].text_map is not None:
        leads = float(np.mean([names_first(a, s) for a, s in zip(found, scenes, strict=True)]))
        row |= {"word leads": leads, "text left": float(np.mean([a.text_score for a in found]) / clean)}
    settings = {key: method.settings[key] for key in ("image_layer", "image_beta", "text_layer", "text_beta")
                if key in method.settings and key.partition("_")[0] in method.modalities}  # fmt: skip
    return settings | row


def calibrated(options: argparse.Namespace, backbone: Backbone) -> Calibration:
    """What is chosen on scenes of its own, kept for the next time."""
    folder = options.output / "calibration"
    if not (folder / "grid.csv").is_file():
        chosen_on = [make_scene(seed) for seed in range(options.start, options.start + options.pairs)]
        pairs = [(scene.image, scene.text) for scene in chosen_on]
        found = calibrate(
            pairs, backbone, options.image_layers, options.text_layers, options.betas, options.pairs, progress=print
        )
        found.save(folder)
    return Calibration.load(folder)


def layer(said: str) -> int | str:
    return said if said == "embeddings" else int(said)


def main() -> None:
    parser = options_of(__doc__, scenes=60, scene_seed=110_000, output="outputs/calibrated")
    parser.add_argument("--from", dest="start", type=int, default=100_000, help="seed of the first scene to choose on")
    parser.add_argument("--pairs", type=int, default=32, help="scenes to choose on")
    parser.add_argument("--image_layers", type=layer, nargs="*", help="layers to try")
    parser.add_argument("--text_layers", type=layer, nargs="*", help="layers to try")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.1, 0.3, 1, 3, 10], help="betas to try")
    parser.add_argument("--every", action="store_true", help="show every cell of the grid")
    options = parser.parse_args()
    backbone, scenes = load_backbone(options.backbone), drawn(options)
    found = calibrated(options, backbone)
    wanted: dict[str, dict[str, Any]] = {
        "default": {},
        "calibrated": Calibration.arguments(options.output / "calibration"),
    }
    if options.every:
        for point in found.grid:
            m = point.modality
            wanted[f"{m} {point.layer} {point.beta:g}"] = {
                "modalities": [m], f"{m}_layer": point.layer, f"{m}_beta": point.beta
            }  # fmt: skip
    rows = [
        {"setting": name, **measure(backbone, scenes, arguments, 8)}
        for name, arguments in track(wanted.items(), "Settings")
    ]
    keep(rows, options)


if __name__ == "__main__":
    main()
