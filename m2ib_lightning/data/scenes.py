"""Composed scenes with ground truth for both modalities.

A scene is a small picture of known objects on a varied background and a caption that names some of them. The truth of
the image is the pixels of the named objects, the truth of the text the characters that name them. Objects that are
shown and not named are distractors: a map that lights them up is wrong. A scene is a function of its seed.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from PIL import Image

from m2ib_lightning.data.scene_kinds import COLOURS, SMALL, WIDE, Kind, relation, scatter, scene_counts, tint
from m2ib_lightning.types import PartTruth, Truth

ARTS = ("noto", "twemoji")
"""The two sets of drawings; every object is in both."""

ALONE = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "a scene with {}",
    "there is {} here",
    "this is {}",
    "we can see {}",
    "look, {}",
)
"""Phrasings; the place takes the list of what is named."""

JOINED = (" and ", " with ", " next to ", " beside ", " near ")
"""What may stand between two named objects."""


class SceneObject(NamedTuple):
    """One object of a scene.

    Attributes:
        name: What it is, one of `object_names()`.
        art: The set of drawings that it is from, one of `ARTS`.
        box: (left, top, right, bottom) in pixels, right and bottom exclusive.
        named: Whether the caption names it.
        colour: That it is tinted in, one of `scene_kinds.COLOURS`; empty if it has its own ones.
    """

    name: str
    art: str
    box: tuple[int, int, int, int]
    named: bool
    colour: str = ""

    @property
    def called(self) -> str:
        """What a caption calls it, without an article: the colour that it is tinted in, if any, and the name."""
        return f"{self.colour} {self.name}".strip()


class Scene(NamedTuple):
    """A picture, its caption and the truth about both.

    Attributes:
        image: RGB picture of (size, size) pixels.
        text: Names every object whose `named` is true, and no other (its like in another colour, if there is one).
        objects: What is shown, the named ones first and in the order of the caption.
        labels: (size, size) int8, the index into `objects` of the object seen at a pixel, -1 for the background.
        spans: (start, end) characters of `text` that name each named object, its colour with it where one is said,
            articles left out; one span for an object that is shown twice.
        absent: (start, end) characters that name what is not there, which hard scenes have.
    """

    image: Image.Image
    text: str
    objects: tuple[SceneObject, ...]
    labels: np.ndarray
    spans: tuple[tuple[int, int], ...]
    absent: tuple[tuple[int, int], ...] = ()

    @property
    def mask(self) -> np.ndarray:
        """(size, size) bool, the pixels of the named objects."""
        return (self.labels >= 0) & (self.labels < sum(item.named for item in self.objects))

    @property
    def truth(self) -> Truth:
        """The mask, the spans, and both by what is named; the like of a named object in another colour beside them."""
        named = {item.name for item in self.objects if item.named}
        called = dict.fromkeys(item.called for item in self.objects if item.named)
        parts = [PartTruth(self._pixels(name), span) for name, span in zip(called, self.spans, strict=True)]
        likes = dict.fromkeys(item.called for item in self.objects if not item.named and item.name in named)
        return Truth(self.mask, self.spans, [*parts, *(PartTruth(self._pixels(name)) for name in likes)])

    def _pixels(self, called: str) -> np.ndarray:
        return np.isin(self.labels, [index for index, item in enumerate(self.objects) if item.called == called])


@lru_cache(maxsize=1)
def object_names() -> tuple[str, ...]:
    """Names of the objects that scenes are made of, sorted.

    >>> "cat" in object_names(), len(object_names())
    (True, 66)
    """
    folder = resources.files("m2ib_lightning") / "assets" / "sprites" / ARTS[0]
    return tuple(sorted(f.name.removesuffix(".png") for f in folder.iterdir() if f.name.endswith(".png")))


@cache
def sprite(name: str, art: str) -> Image.Image:
    """The drawing of an object, RGBA, 64 x 64 pixels, transparent around it.

    Raises:
        ValueError: There is no such drawing.
    """
    path = resources.files("m2ib_lightning") / "assets" / "sprites" / art / f"{name}.png"
    if not path.is_file():
        raise ValueError(
            f"Expected an object of `object_names()` drawn in one of {', '.join(ARTS)} but got {name!r}, {art!r}. "
            "Remedy: choose one of those."
        )
    with path.open("rb") as file:
        return Image.open(file).convert("RGBA")


@lru_cache(maxsize=512)  # 8 MB; all of them would be 40
def turned(name: str, art: str, mirrored: bool, degrees: int) -> Image.Image:
    """The drawing of an object mirrored and turned; kept, because turning is the slow part of a scene."""
    drawing = sprite(name, art)
    if mirrored:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return drawing.rotate(degrees, Image.Resampling.BILINEAR)


def make_scene(
    seed: int,
    objects: int | tuple[str, ...] | None = None,
    named: int | None = None,
    size: int = 96,
    kind: Kind = "plain",
) -> Scene:
    """Compose one scene from its seed.

    Args:
        seed: The same seed and arguments give the same scene.
        objects: How many different objects are shown, drawn at random, or their names; the first ones get named. By
            default what the kind has: 3, of "two_of_four" 4. Of "hard" the most, 8.
        named: How many of them the caption names. By default 1, of "two_of_four" and "relation" 2. Of "hard" the most.
        size: Side of the picture in pixels. Objects are about 0.27 to 0.44 of it wide, small ones 0.14 to 0.22.
        kind: What the scene is like, see `scene_kinds.Kind`.

    Raises:
        ValueError: `named` is not in 1..objects, there are not so many objects, or there is no such kind.

    Example:
        >>> make_scene(7, objects=("cat", "key")).text
        'a photo of a cat'
    """
    rng = np.random.default_rng(seed)
    count, named = scene_counts(kind, len(objects) if isinstance(objects, tuple) else objects, named)
    if not 1 <= named <= count <= len(object_names()):
        raise ValueError(
            f"Expected 1 <= named <= objects <= {len(object_names())} but got named={named}, objects={count}. "
            "Remedy: show more objects or name fewer."
        )
    if kind == "hard":
        from m2ib_lightning.data.hard_scenes import hard_scene  # made of the pieces of this file

        return hard_scene(seed, count if objects is None else objects, named, size)
    if not isinstance(objects, tuple):
        objects = tuple(object_names()[i] for i in rng.permutation(len(object_names()))[:count])
    image = _background(rng, size)
    if kind == "clutter":
        scatter(image, rng)
    labels = np.full((size, size), -1, dtype=np.int8)
    shown: list[SceneObject] = []
    for index, (name, colour, is_named) in enumerate(_cast(objects, named, kind, rng)):
        art = ARTS[rng.integers(len(ARTS))]
        drawing = _vary(name, art, rng, size, SMALL if kind == "small" else WIDE)
        if colour:
            drawing = tint(drawing, colour)
        left, top = _place(rng, size, drawing.size, [o.box for o in shown])
        image.paste(drawing, (left, top), drawing)
        opaque = np.asarray(drawing.getchannel("A")) > 127
        view = labels[top : top + drawing.height, left : left + drawing.width]
        view[opaque] = index
        box = (left, top, left + drawing.width, top + drawing.height)
        shown.append(SceneObject(name, art, box, is_named, colour))
    between = relation(shown[0].box, shown[1].box) if kind == "relation" else None
    names = dict.fromkeys(item.called for item in shown if item.named)
    text, spans = make_caption(tuple(names), rng, between)
    return Scene(image, text, tuple(shown), labels, spans)


def _cast(objects: tuple[str, ...], named: int, kind: Kind, rng: np.random.Generator) -> list[tuple[str, str, bool]]:
    """(name, colour or "" for its own ones, whether it is named) of all that is shown, the named ones first."""
    cast = [(name, "", index < named) for index, name in enumerate(objects)]
    if kind == "twice":
        cast.insert(0, cast[0])
    if kind == "attribute":
        said, other = rng.permutation(list(COLOURS))[:2].tolist()
        cast[0] = (objects[0], said, True)
        cast.insert(named, (objects[0], other, False))
    return cast


def make_caption(
    names: tuple[str, ...],
    rng: np.random.Generator,
    between: str | None = None,
    phrasings: tuple[str, ...] = ALONE,
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A caption in one of many phrasings that names the objects, and the (start, end) characters of each name.

    Args:
        names: The names of the objects, as they stand behind an article.
        rng: The generator that chooses the phrasing.
        between: What stands before the last name; one of `JOINED` by default.
        phrasings: The phrasings to choose from, each with a place for the list of names.
    """
    phrase = phrasings[rng.integers(len(phrasings))]
    before, after = phrase.split("{}")
    definite = phrase == ALONE[0] and rng.random() < 0.5
    text, spans = before, []
    joint = JOINED[rng.integers(len(JOINED))] if between is None else between
    for index, name in enumerate(names):
        if index:
            text += ", " if index < len(names) - 1 else joint
        text += "the " if definite else ("an " if name[0] in "aeiou" else "a ")
        spans.append((len(text), len(text) + len(name)))
        text += name
    return text + after, tuple(spans)


def _vary(name: str, art: str, rng: np.random.Generator, size: int, widths: tuple[float, float]) -> Image.Image:
    """A drawing resized to a width between two, perhaps mirrored, and turned a little."""
    side = int(size * rng.uniform(*widths))
    drawing = turned(name, art, bool(rng.integers(2)), int(rng.integers(-4, 5)) * 5)
    return drawing.resize((side, side), Image.Resampling.BOX if side <= 32 else Image.Resampling.BILINEAR)


def _place(
    rng: np.random.Generator, size: int, extent: tuple[int, int], taken: list[tuple[int, int, int, int]]
) -> tuple[int, int]:
    """The one of 20 random places that covers least of what is there already (the first that covers nothing)."""
    width, height = extent
    best, least = (0, 0), float("inf")
    for left, top in rng.integers(0, (size - width + 1, size - height + 1), (20, 2)).tolist():
        covered = sum(
            max(0, min(left + width, right) - max(left, x)) * max(0, min(top + height, bottom) - max(top, y))
            for x, y, right, bottom in taken
        )
        if covered < least:
            best, least = (left, top), covered
        if covered == 0:
            break
    return best


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """A plain, shaded, cloudy, striped or checked background with a little noise."""
    cells = int(rng.integers(1, 7))
    base = rng.integers(60, 250, 3)
    kind = rng.integers(5)
    if kind == 0:
        coarse = np.zeros((1, 1, 3))
    elif kind <= 2:
        corners = 2 if kind == 1 else cells + 1
        coarse = rng.uniform(-70, 70, (corners, corners, 3))
    else:
        rows, columns = np.mgrid[: 2 * cells, : 2 * cells]
        pattern = (rows + columns) % 2 if kind == 3 else rows % 2
        coarse = pattern[..., None] * rng.uniform(-60, 60, 3)
    smooth = Image.Resampling.NEAREST if kind >= 3 else Image.Resampling.BICUBIC
    picture = Image.fromarray(np.clip(base + coarse, 0, 255).astype(np.uint8)).resize((size, size), smooth)
    noise = rng.integers(-10, 11, (size, size, 1), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
