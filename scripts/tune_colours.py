#!/usr/bin/env python
"""Teach a copy of the embedded CLIP the colours of scenes of the kind "attribute".

    python scripts/tune_colours.py --folder outputs/colour_clip
    python scripts/compare.py --backbone outputs/colour_clip --kind attribute --scenes 100 --first 20000

The embedded model knows no colours, so that with it no method can find out which crab "a red crab" is where a blue one
is there too. Half of the scenes are plain ones, so that nothing is forgotten. What is optimised is the contrast of
captions and pictures, and of pictures and every name in every colour, with all that is shown as positives.
"""

from __future__ import annotations

import argparse
import time
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
    multi_positive_loss,
)
from transformers import CLIPModel, CLIPTokenizer

from m2ib_lightning.data import make_caption, make_scene, object_names
from m2ib_lightning.data.scene_kinds import COLOURS
from m2ib_lightning.data.scenes import Scene, SceneObject

TERMS = tuple(f"{colour} {name}".strip() for colour in ("", *COLOURS) for name in object_names())
"""Every name, alone and in every colour."""


def terms_of(item: SceneObject) -> set[str]:
    """What an object may be called."""
    return {item.name, f"{item.colour} {item.name}".strip()}


def has(terms: set[str]) -> Tensor:
    """(TERMS,) bool"""
    return torch.tensor([term in terms for term in TERMS])


class Scenes(Dataset):
    """(3, H, W) uint8 pixels, the caption, what is shown and what is named, (TERMS,) bool each."""

    def __init__(self, first: int, last: int) -> None:
        self.seeds = range(first, last)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, item: int) -> tuple[Tensor, str, Tensor, Tensor]:
        seed = self.seeds[item]
        scene = make_scene(seed, named=1 + seed // 2 % 2, kind="attribute" if seed % 2 else "plain")
        shown = set().union(*(terms_of(o) for o in scene.objects))
        named = set().union(*(terms_of(o) for o in scene.objects if o.named))
        return pixels_of(scene), scene.caption, has(shown), has(named)


def pixels_of(scene: Scene) -> Tensor:
    return torch.from_numpy(np.asarray(scene.image).copy()).permute(2, 0, 1)


def collate(examples: list) -> tuple[Tensor, list[str], Tensor, Tensor]:
    pixels, captions, shown, named = zip(*examples, strict=True)
    return torch.stack(pixels), list(captions), torch.stack(shown), torch.stack(named)


def loss(embedder: Embedder, batch: tuple[Tensor, list[str], Tensor, Tensor], rng: np.random.Generator) -> Tensor:
    pixels, captions, shown, named = batch
    images, _ = embedder.images(pixels)
    texts = embedder.texts(captions + [make_caption((term,), rng)[0] for term in TERMS])
    logits = embedder.model.logit_scale.exp().clamp(max=50) * images @ texts.T
    pairs, terms = logits.split([len(captions), len(TERMS)], 1)
    match = ~(named[None] & ~shown[:, None]).any(-1)
    both = ((pairs, match), (pairs.T, match.T), (terms, shown), (terms.T, shown.T))
    return sum(multi_positive_loss(values, true) for values, true in both)


def embedded() -> Embedder:
    """The model of the package, ready to be tuned."""
    model = CLIPModel.from_pretrained(PACKAGED, dtype=torch.float32, attn_implementation="eager")
    return Embedder(model, CLIPTokenizer.from_pretrained(PACKAGED))


def tune(embedder: Embedder, scenes: int) -> None:
    steps = scenes // BATCH
    optimizer = torch.optim.AdamW(embedder.model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    first = 2 * FIRST_TRAINING_SEED  # the embedded model has read fewer than a million
    loader = DataLoader(Scenes(first, first + steps * BATCH), BATCH, num_workers=1, collate_fn=collate)
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
    right = 0
    for seed in range(count):
        scene = make_scene(seed, kind="attribute")
        image, _ = embedder.images(pixels_of(scene)[None])
        texts = embedder.texts([f"a photo of a {colour} {scene.objects[0].name}" for colour in COLOURS])
        best = (texts @ image[0]).topk(2).indices.tolist()
        right += {list(COLOURS)[i] for i in best} == {item.colour for item in scene.objects[:2]}
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60_000, help="scenes to tune on")
    parser.add_argument("--folder", type=Path, default=Path("outputs/colour_clip"), help="where the model is written")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    embedder = embedded()
    print(f"colours known before: {100 * colours_known(embedder):.1f} % (chance 16.7 %)", flush=True)
    tune(embedder, arguments.scenes)
    embedder.model.eval()
    export(embedder, arguments.folder)
    for name, value in {"colours known": colours_known(embedder), **evaluate(embedder)}.items():
        print(f"{name}: {100 * value:.1f} %")


if __name__ == "__main__":
    main()
