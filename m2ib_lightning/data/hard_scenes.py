"""Hard scenes: closer to photographs than the other kinds, and with captions that are not all true.

A textured background full of shapes; three to eight objects, 0.08 to 0.6 of the picture wide, which hide one another
and are cut by the border; captions with words that name nothing, some of which name what is not there. All words are
among those that the embedded model was trained on, so that it can be measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from m2ib_lightning.data.scene_kinds import scatter
from m2ib_lightning.data.scenes import ALONE, ARTS, Scene, SceneObject, make_caption, object_names, turned

WIDTHS = (0.08, 0.6)
"""Smallest and largest width of an object, in widths of the picture; small ones are as frequent as large ones."""

SEEN = 0.4
"""The least share of a named object's drawing that is neither hidden nor beyond the border."""

ABSENT = 1 / 3
"""How often a caption names something that is not there as well."""

LONGER = (
    "look here, this is a scene, and there we can see {}",
    "a photo of a scene with {} here, look",
    "there is a picture of a scene here, and {} is near",
    "this is a photo, we can see {} and the scene",
    "we can look here, the drawing is a scene with {}",
    "here is a drawing, look, {} there beside the scene",
)
"""Phrasings with many words that name nothing; the place takes the list of what is named."""


class Placed(NamedTuple):
    """A drawing with its place, which may be beyond the border.

    Attributes:
        drawing: The drawing of the object, RGBA.
        left: The column of its first pixel, negative beyond the border.
        top: The row of that pixel.
    """

    drawing: Image.Image
    left: int
    top: int

    def covered(self, size: int) -> np.ndarray:
        """(size, size) bool, the pixels of the picture that it covers."""
        canvas = Image.new("L", (size, size))
        canvas.paste(self.drawing.getchannel("A"), (self.left, self.top))
        return np.asarray(canvas) > 127

    def box(self, size: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of what is in the picture."""
        right, bottom = self.left + self.drawing.width, self.top + self.drawing.height
        return max(0, self.left), max(0, self.top), min(size, right), min(size, bottom)


def hard_scene(seed: int, objects: int | tuple[str, ...], named: int, size: int) -> Scene:
    """Compose one hard scene.

    Args:
        seed: The same seed and arguments give the same scene.
        objects: The most different objects that are shown, at least three of them, or the names of all; the first ones
            get named.
        named: The most that the caption names of what is there, at least one; of objects given by name just so many.
        size: Side of the picture in pixels.
    """
    rng = np.random.default_rng(seed)
    if isinstance(objects, int):
        count = int(rng.integers(min(3, objects), objects + 1))
        named = int(rng.integers(1, min(named, count) + 1))
        objects = tuple(object_names()[i] for i in rng.permutation(len(object_names()))[:count])
    arts = [ARTS[i] for i in rng.integers(len(ARTS), size=len(objects))]
    image = textured(rng, size)
    order = rng.permutation(len(objects)).tolist()
    placed, labels = _layout(rng, list(zip(objects, arts, strict=True)), named, order, size)
    for index in order:
        image.paste(placed[index].drawing, (placed[index].left, placed[index].top), placed[index].drawing)
    shown = tuple(
        SceneObject(name, art, at.box(size), index < named)
        for index, (name, art, at) in enumerate(zip(objects, arts, placed, strict=True))
    )
    said = list(objects[:named])
    wrong = int(rng.integers(len(said) + 1)) if rng.random() < ABSENT else None
    if wrong is not None:
        others = [name for name in object_names() if name not in objects]
        said.insert(wrong, others[rng.integers(len(others))])
    text, spans = make_caption(tuple(said), rng, phrasings=ALONE + LONGER)
    absent = () if wrong is None else (spans[wrong],)
    return Scene(image, text, shown, labels, tuple(span for span in spans if span not in absent), absent)


def textured(rng: np.random.Generator, size: int) -> Image.Image:
    """A background of noise of several scales, with shapes and fragments that are no objects over it."""
    sides = (2, 4, 8, 16, 32)
    mixed = rng.uniform(-60, 60, 3) + np.zeros((size, size, 3))
    for side, weight in zip(sides, rng.dirichlet(np.ones(len(sides))), strict=True):
        # Mostly light and dark, less of colour, as surfaces are.
        coarse = rng.normal(0, 90, (side, side, 1)) + rng.normal(0, 35, (side, side, 3))
        cells = Image.fromarray(np.clip(128 + coarse, 0, 255).astype(np.uint8))
        mixed += weight * (np.asarray(cells.resize((size, size), Image.Resampling.BICUBIC), dtype=float) - 128)
    mixed += rng.normal(128, 12, (size, size, 3))
    image = Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 7))):  # large shapes, cut by the border
        left, top = rng.uniform(-0.2 * size, 0.9 * size, 2)
        width, height = rng.uniform(0.15 * size, 0.7 * size, 2)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        kind = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        kind((left, top, left + width, top + height), fill=colour)
    scatter(image, rng)
    return image


def _layout(
    rng: np.random.Generator, cast: list[tuple[str, str]], named: int, order: list[int], size: int, tries: int = 100
) -> tuple[list[Placed], np.ndarray]:
    """Places, and (size, size) int8 labels, where enough is seen of each named object; else the best of the tries."""
    best: tuple[list[Placed], np.ndarray] | None = None
    most = -1.0
    for _ in range(tries):
        placed = [_place(rng, name, art, size) for name, art in cast]
        labels = np.full((size, size), -1, dtype=np.int8)
        for index in order:
            labels[placed[index].covered(size)] = index
        whole = [(np.asarray(at.drawing.getchannel("A")) > 127).sum() for at in placed[:named]]
        seen = min((labels == index).sum() / max(1, pixels) for index, pixels in enumerate(whole))
        if seen > most:
            best, most = (placed, labels), float(seen)
        if most >= SEEN:
            break
    assert best is not None
    return best


def _place(rng: np.random.Generator, name: str, art: str, size: int) -> Placed:
    """A drawing of a random width, mirrored and turned, whose centre is anywhere in the picture."""
    side = max(4, round(size * float(np.exp(rng.uniform(*np.log(WIDTHS))))))
    drawing = turned(name, art, bool(rng.integers(2)), int(rng.integers(-4, 5)) * 5)
    drawing = drawing.resize((side, side), Image.Resampling.BOX if side <= 32 else Image.Resampling.BILINEAR)
    left, top = (rng.integers(0, size, 2) - side // 2).tolist()
    return Placed(drawing, left, top)
