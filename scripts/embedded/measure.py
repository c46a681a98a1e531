"""What a model knows of scenes that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from m2ib_lightning.data.scene_kinds import COLOURS, Kind
from m2ib_lightning.data.scenes import Scene, make_scene, object_names

from .model import Embedder
from .stream import SIZE
from .terms import captions_of


@lru_cache(maxsize=3)
def scenes(first: int, count: int, objects: int | None, named: int, kind: Kind = "plain") -> list[Scene]:
    """Scenes of the seeds from `first` on."""
    return [make_scene(first + i, objects, named, SIZE, kind) for i in range(count)]


@torch.no_grad()
def evaluate(embedder: Embedder, count: int = 1000, seed: int = 0) -> dict[str, float]:
    """The four numbers of the model card, over `count` scenes each; those with several objects start at `seed + count`.

    Returns:
        Shares in 0..1 by what they are of.
    """
    one, three = scenes(seed, count, 1, 1), scenes(seed + count, count, 3, 3)
    images = embedder.pictures(three)
    return {
        "one object, right name first": _first(embedder, one),
        "three objects, recall of the three among the top three": _recall(embedder, three, images),
        "100 scenes of three, right caption first": _right_caption(embedder, three, images),
        "two of one name, right colour before both that are not there": _right_colour(
            embedder, scenes(seed + count, count, None, 1, "attribute")
        ),
    }


def _first(embedder: Embedder, one: Sequence[Scene]) -> float:
    bank = embedder.captions(captions_of(object_names()))
    best = (embedder.pictures(one) @ bank.T).argmax(1)
    return (best == _names(one, 1)[:, 0]).float().mean().item()


def _recall(embedder: Embedder, three: Sequence[Scene], images: Tensor) -> float:
    bank = embedder.captions(captions_of(object_names()))
    best = (images @ bank.T).topk(3).indices
    return (best[:, :, None] == _names(three, 3)[:, None]).any(1).float().mean().item()


def _right_caption(embedder: Embedder, three: Sequence[Scene], images: Tensor) -> float:
    texts = embedder.captions([scene.text for scene in three])
    parts = zip(images.split(100), texts.split(100), strict=True)
    return torch.cat([(i @ t.T).argmax(1).cpu() == torch.arange(len(i)) for i, t in parts]).float().mean().item()


def _right_colour(embedder: Embedder, twins: Sequence[Scene]) -> float:
    """The twin in the other colour is there as well, so its colour is no choice; of three, chance is a third."""
    choices = []
    for scene in twins:
        said, other = (item for item in scene.objects if item.colour)
        absent = [colour for colour in COLOURS if colour not in (said.colour, other.colour)]
        choices += [f"{colour} {said.name}" for colour in (said.colour, *absent)]
    texts = embedder.captions(captions_of(choices)).unflatten(0, (len(twins), 3))
    scores = torch.einsum("ble,be->bl", texts, embedder.pictures(twins))
    return (scores.argmax(1) == 0).float().mean().item()


def _names(shown: Sequence[Scene], count: int) -> Tensor:
    """(scenes, count), the indices of what is in each picture, on the CPU."""
    index = {name: i for i, name in enumerate(object_names())}
    return torch.tensor([[index[item.name] for item in scene.objects[:count]] for scene in shown])
