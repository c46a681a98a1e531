"""What the measurements on composed scenes share: their options, the scenes, the fits, and the rows that they keep."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from m2ib_lightning import Attribution
from m2ib_lightning.data import Scene, make_scene
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.metrics import pearson
from m2ib_lightning.types import Modality, Pair, Truth


def options_of(text: str | None, scenes: int, scene_seed: int, output: str) -> argparse.ArgumentParser:
    """A parser with the options that every measurement has, to which a script adds its own."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=scenes, help="how many are explained")
    parser.add_argument("--scene_seed", type=int, default=scene_seed, help="seed of the first scene")
    parser.add_argument("--backbone", default="embedded", help="a hub name, a folder, or embedded")
    parser.add_argument("--output", type=Path, default=Path(output), help="folder that the numbers are written to")
    return parser


def drawn(options: argparse.Namespace) -> list[Scene]:
    """The scenes that were asked for, three objects each of which the caption names one."""
    return [make_scene(seed) for seed in range(options.scene_seed, options.scene_seed + options.scenes)]


def pairs_of(scenes: Sequence[Scene]) -> list[Pair]:
    """The scenes as pairs with their truth."""
    return [Pair(str(i), s.image, s.text, truth=Truth(s.mask, s.spans)) for i, s in enumerate(scenes)]


def explain(method: AttributionMethod, scenes: Sequence[Scene], batch: int = 20) -> list[Attribution]:
    """What a method says of each scene, in order."""
    backbone, pairs = method.prepare(), pairs_of(scenes)
    batches = [pairs[start : start + batch] for start in range(0, len(pairs), batch)]
    return [result for some in batches for result in method.attribute(backbone.preprocess_pairs(some))]


def on_object(result: Attribution, scene: Scene) -> tuple[float, float]:
    """Whether the highest pixel lies on the named object, and the share of the map's sum that does."""
    assert result.image_map is not None
    heat = result.heatmap(scene.mask.shape)
    highest = np.unravel_index(heat.argmax(), heat.shape)
    spread = np.kron(result.image_map, np.ones(np.array(scene.mask.shape) // result.image_map.shape))
    return float(scene.mask[highest]), float(spread[scene.mask].sum() / spread.sum())


def names_first(result: Attribution, scene: Scene) -> float:
    """Whether the token with the highest value, special ones left out, is one that names the object."""
    assert result.text_map is not None
    start, end = result.spans[int(np.where(result.special, -np.inf, result.text_map).argmax())]
    return float(scene.spans[0][0] <= start < end <= scene.spans[0][1])


def correlations(found: Sequence[Attribution], reference: Sequence[Attribution], modality: Modality) -> np.ndarray:
    """(pairs,), Pearson's correlation of the maps of each pair; of a text, of its content tokens."""
    maps = [[torch.from_numpy(a.content_of(modality)) for a in results] for results in (found, reference)]
    return np.array([float(pearson(*both)) for both in zip(*maps, strict=True)])


def keep(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print rows as a table and write them, with the options that they were made with, to `rows.json` of the folder."""
    table = Table(*rows[0], title=", ".join(f"{name} {value}" for name, value in vars(options).items()))
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=170).print(table)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "rows.json"
    path.write_text(json.dumps({"options": vars(options), "rows": rows}, indent=1, default=str))
    print(f"Written: {path}")
