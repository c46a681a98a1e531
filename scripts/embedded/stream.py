"""Training scenes in batches, drawn by several processes and read by several models.

Drawing is what takes the time, so all models that train at once read the same batches. They lie in shared memory, in
slots that are written again once every reader is done with them. Batch n is a function of n alone.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from m2ib_lightning.data.scene_kinds import Kind, scene_counts
from m2ib_lightning.data.scenes import Scene, make_scene

from .terms import TERMS, captions_of, terms_of

FIRST_TRAINING_SEED = 1_000_000
"""Scenes below it are never trained on."""

SHARES: dict[Kind, float] = {
    "plain": 0.30,
    "attribute": 0.25,
    "small": 0.15,
    "clutter": 0.10,
    "two_of_four": 0.10,
    "twice": 0.05,
    "relation": 0.05,
}
"""How often each kind of scene is drawn."""

SIZE, TEXT_LIMIT = 96, 32
PAUSE = 0.002
"""Seconds between two looks at a slot that is not ready."""


class Batch(NamedTuple):
    """Arrays of one slot.

    Attributes:
        pixels: (B, 3, SIZE, SIZE) uint8.
        tokens: (B + terms, TEXT_LIMIT) int16, the captions and one caption per term, padded.
        shown: (B, terms) bool, what is in the pictures.
        named: (B, terms) bool, what the captions say.
    """

    pixels: np.ndarray
    tokens: np.ndarray
    shown: np.ndarray
    named: np.ndarray


Tokens = Callable[[list[str]], np.ndarray]
"""Captions to (captions, TEXT_LIMIT) int16."""


def training_scene(seed: int) -> Scene:
    """A scene of a random kind with up to five objects, one or more of them named."""
    rng = np.random.default_rng((seed, 1))
    kind: Kind = tuple(SHARES)[rng.choice(len(SHARES), p=tuple(SHARES.values()))]
    if kind in ("two_of_four", "relation"):
        objects, named = scene_counts(kind)
    else:
        objects = int(rng.choice((1, 2, 3, 4, 5), p=(0.15, 0.2, 0.3, 0.25, 0.1)))
        named = int(rng.integers(1, objects + 1))
    return make_scene(seed, objects, named, SIZE, kind)


def draw(number: int, into: Batch, tokens: Tokens) -> None:
    """Draw batch `number`."""
    captions, size = [], len(into.pixels)
    for row in range(size):
        scene = training_scene(FIRST_TRAINING_SEED + number * size + row)
        into.pixels[row] = np.asarray(scene.image).transpose(2, 0, 1)
        into.shown[row] = terms_of(scene.objects)
        into.named[row] = terms_of(item for item in scene.objects if item.named)
        captions.append(scene.text)
    into.tokens[:] = tokens([*captions, *captions_of(TERMS, np.random.default_rng((number, 2)))])


class Ring:
    """Batches in shared memory, for processes forked from the one that made it.

    Args:
        slots: Batches kept at most.
        size: Scenes in a batch.
        starts: For each reader, the batch that it reads first.
    """

    def __init__(self, slots: int, size: int, starts: list[int]) -> None:
        self.slots = slots
        shapes = Batch((size, 3, SIZE, SIZE), (size + len(TERMS), TEXT_LIMIT), (size, len(TERMS)), (size, len(TERMS)))
        kinds = Batch(np.uint8, np.int16, np.bool_, np.bool_)
        self.arrays = Batch(*(shared((slots, *shape), kind) for shape, kind in zip(shapes, kinds, strict=True)))
        self.filled, self.taken = shared((slots,), np.int64), shared((len(starts),), np.int64)
        self.filled[:], self.taken[:] = -1, starts

    def slot(self, number: int) -> Batch:
        """Where batch `number` lies."""
        return Batch(*(array[number % self.slots] for array in self.arrays))

    def fill(self, number: int, tokens: Tokens) -> None:
        """Draw batch `number` once its slot is free."""
        while number - self.taken.min() >= self.slots:
            time.sleep(PAUSE)
        draw(number, self.slot(number), tokens)
        self.filled[number % self.slots] = number

    def read(self, number: int) -> Batch:
        """Batch `number`, once it is there; valid until `release`."""
        while self.filled[number % self.slots] != number:
            time.sleep(PAUSE)
        return self.slot(number)

    def release(self, reader: int, number: int) -> None:
        """Say that a reader needs no batch before `number` any more."""
        self.taken[reader] = number


def shared(shape: tuple[int, ...], kind: type) -> np.ndarray:
    """An array of zeros that forked processes see alike."""
    count = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(kind).itemsize), kind, count).reshape(shape)
