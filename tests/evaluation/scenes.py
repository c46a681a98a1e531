"""Scenes as pairs with their truth."""

from m2ib_lightning.data import make_scene
from m2ib_lightning.types import Pair, Truth


def scene_pairs(count: int, first: int = 500) -> list[Pair]:
    """So many scenes of which one object and two are named in turn."""
    made = [make_scene(first + i, named=1 + i % 2) for i in range(count)]
    return [Pair(str(i), s.image, s.text, truth=Truth(s.mask, s.spans)) for i, s in enumerate(made)]
