"""Kinds of composed scenes: what is harder than three objects of which one is named."""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from m2ib_lightning.checks import check_choice

Kind = Literal["plain", "two_of_four", "twice", "small", "clutter", "relation", "attribute", "hard"]
"""What a scene is like.

- plain: large objects on a calm background.
- two_of_four: four objects, two of them named.
- twice: the first named object is there in two places; both are true, the caption names it once.
- small: objects half as wide.
- clutter: fragments of many colours and shapes that are no objects lie behind the objects.
- relation: the caption says where the first of two objects is: "a crab left of a strawberry". Both are true, and the
  words of the relation are not.
- attribute: the first named object is there in two colours, and the caption says which one it means: "a red crab". Only
  that one is true, and both words are.
- hard: up to eight objects of all sizes that hide one another and are cut by the border, before textures and shapes;
  the caption names one or two of them, and in every third scene also something that is not there.
"""

KINDS: tuple[Kind, ...] = get_args(Kind)

WIDE = (0.27, 0.44)
"""Smallest and largest width of an object, in widths of the picture."""

SMALL = (0.14, 0.22)
"""The same of small objects."""

FRAGMENTS = 60
"""That clutter is made of."""

COLOURS = {"red": (225, 45, 45), "green": (45, 165, 65), "blue": (50, 90, 225), "yellow": (245, 205, 40)}
"""That attributes name, RGB."""


def scene_counts(kind: Kind, objects: int | None = None, named: int | None = None) -> tuple[int, int]:
    """How many different objects a scene shows and its caption names: as given, or as the kind has it where None.

    >>> scene_counts("two_of_four"), scene_counts("relation"), scene_counts("plain", objects=5)
    ((4, 2), (3, 2), (5, 1))

    Raises:
        ValueError: There is no such kind, or it does not go with that many named.
    """
    check_choice("scene_kind", kind, KINDS)
    if kind == "relation" and named not in (None, 2):
        raise ValueError(
            f"Expected named=2 in scenes of the kind 'relation' but got named={named}. Remedy: leave it out."
        )
    usual = {"two_of_four": (4, 2), "relation": (3, 2), "hard": (8, 2)}.get(kind, (3, 1))
    return (usual[0] if objects is None else objects), (usual[1] if named is None else named)


def relation(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> str:
    """Where the first box is, seen from the second, along the axis in which their centres are further apart.

    >>> relation((0, 0, 10, 10), (50, 20, 60, 30)), relation((0, 90, 10, 99), (0, 0, 10, 10))
    (' left of ', ' below ')
    """
    across, down = ((first[i] + first[i + 2]) - (second[i] + second[i + 2]) for i in (0, 1))
    if abs(across) >= abs(down):
        return " left of " if across < 0 else " right of "
    return " above " if down < 0 else " below "


def scatter(image: Image.Image, rng: np.random.Generator) -> None:
    """Draw fragments onto a picture: discs, three- and four-cornered pieces and strokes, 0.04 to 0.2 of it wide."""
    draw, size = ImageDraw.Draw(image), image.width
    for shape in rng.integers(4, size=FRAGMENTS).tolist():
        colour = tuple(rng.integers(0, 256, 3).tolist())
        centre, reach = rng.uniform(0, size, 2), size * rng.uniform(0.02, 0.1)
        corners = centre + rng.uniform(-reach, reach, (4, 2))
        if shape == 0:
            draw.ellipse([*(centre - reach / 2), *(centre + reach / 2)], fill=colour)
        elif shape == 3:
            draw.line([tuple(corner) for corner in corners[:2]], fill=colour, width=max(1, size // 48))
        else:
            draw.polygon([tuple(corner) for corner in corners[: 2 + shape]], fill=colour)


def tint(drawing: Image.Image, colour: str) -> Image.Image:
    """An RGBA drawing in shades of one of `COLOURS`: the colour itself where it is of its own median brightness."""
    alpha, grey = drawing.getchannel("A"), np.asarray(drawing.convert("L"), dtype=int)
    contrast = 128 + grey - int(np.median(grey[np.asarray(alpha) > 127]))
    shaded = Image.fromarray(_shades(colour)[np.clip(contrast, 0, 255)])
    shaded.putalpha(alpha)
    return shaded


@cache
def _shades(colour: str) -> np.ndarray:
    """(256, 3) uint8, from dark over the colour itself to pale; kept, because Pillow makes it slowly."""
    full = COLOURS[colour]
    dark, pale = tuple(v // 5 for v in full), tuple((v + 255) // 2 for v in full)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return np.asarray(ImageOps.colorize(ramp, dark, pale, mid=full))[0]
