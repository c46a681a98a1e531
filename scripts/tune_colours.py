#!/usr/bin/env python
"""Teach a copy of the embedded CLIP the colours of scenes of the kind "attribute".

    python scripts/tune_colours.py --folder outputs/colour_clip
    m2ib compare --backbone outputs/colour_clip --data.scene_kind attribute --data.scenes 100 --data.scene_seed 20000

The embedded model knows no colours, so that with it no method can find out which crab "a red crab" is where a blue one
is there too. Half of the scenes are plain ones, so that nothing is forgotten. What is optimised is the contrast of
captions and pictures, and of pictures and every name in every colour, with all that is shown as positives.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from train_embedded_clip import (
    BATCH,
    FIRST_TRAINING_SEED,
    PACKAGED,
    Embedder,
    evaluate,
    export,
    load,
    name_captions,
    pixels_of,
)

from m2ib_lightning.data import make_scene, object_names
from m2ib_lightning.data.scene_kinds import COLOURS
from m2ib_lightning.data.scenes import SceneObject

TERMS = tuple(f"{colour} {name}".strip() for colour in ("", *COLOURS) for name in object_names())
"""Every name, alone and in every colour."""


def terms_of(objects: Iterable[SceneObject]) -> Tensor:
    """(TERMS,) bool, what the objects may be called."""
    fitting = {term for item in objects for term in (item.name, item.called)}
    return torch.tensor([term in fitting for term in TERMS])


class Scenes(Dataset):
    """(3, H, W) uint8 pixels, the caption, what is shown and what is named, (TERMS,) bool each."""

    def __init__(self, first: int, last: int) -> None:
        self.seeds = range(first, last)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, item: int) -> tuple[Tensor, str, Tensor, Tensor]:
        seed = self.seeds[item]
        scene = make_scene(seed, named=1 + seed // 2 % 2, kind="attribute" if seed % 2 else "plain")
        named = [item for item in scene.objects if item.named]
        return pixels_of(scene), scene.caption, terms_of(scene.objects), terms_of(named)


def loss(embedder: Embedder, batch: tuple[Tensor, list[str], Tensor, Tensor], rng: np.random.Generator) -> Tensor:
    pixels, captions, shown, named = batch
    images, _ = embedder.images(pixels)
    return sum(embedder.contrast(images, captions, name_captions(TERMS, rng), shown, named).values())


def tune(embedder: Embedder, scenes: int) -> None:
    steps = scenes // BATCH
    optimizer = torch.optim.AdamW(embedder.model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    first = 2 * FIRST_TRAINING_SEED  # the embedded model has read fewer than a million
    loader = DataLoader(Scenes(first, first + steps * BATCH), BATCH, num_workers=1)
    started, mean = time.monotonic(), None
    for step, batch in enumerate(loader):
        optimizer.param_groups[0]["lr"] = 1e-3 * min((step + 1) / 100, 1 - step / steps)
        with torch.autocast("cpu", torch.bfloat16):
            total = loss(embedder, batch, np.random.default_rng((step, 3)))
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = total.item() if mean is None else 0.95 * mean + 0.05 * total.item()
        if (step + 1) % 50 == 0:
            pace = (step + 1) * BATCH / (time.monotonic() - started)
            print(f"step {step + 1}/{steps}  {pace:.0f} scenes/s  loss {mean:.3f}", flush=True)


@torch.no_grad()
def colours_known(embedder: Embedder, count: int = 1000) -> float:
    """Share of `count` scenes, not trained on, where the colours of the name that is there twice are its first two."""
    scenes = [make_scene(seed, kind="attribute") for seed in range(count)]
    choices = [f"{colour} {scene.objects[0].name}" for scene in scenes for colour in COLOURS]
    texts = embedder.texts(name_captions(choices, None)).unflatten(0, (count, len(COLOURS)))
    best = torch.einsum("scd,sd->sc", texts, embedder.scenes(scenes)).topk(2).indices
    there = torch.tensor([[list(COLOURS).index(item.colour) for item in scene.objects[:2]] for scene in scenes])
    return (best.sort(1).values == there.sort(1).values).all(1).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60_000, help="scenes to tune on")
    parser.add_argument("--folder", type=Path, default=Path("outputs/colour_clip"), help="where the model is written")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    embedder = load(PACKAGED)
    print(f"colours known before: {100 * colours_known(embedder):.1f} % (chance 16.7 %)", flush=True)
    tune(embedder, arguments.scenes)
    export(embedder, arguments.folder)
    for name, value in {"colours known": colours_known(embedder), **evaluate(embedder)}.items():
        print(f"{name}: {100 * value:.1f} %")


if __name__ == "__main__":
    main()
