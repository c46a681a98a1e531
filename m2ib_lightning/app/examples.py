"""Pairs to begin with: composed scenes of what the embedded model knows."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from PIL import Image

from m2ib_lightning.data.scene_kinds import Kind
from m2ib_lightning.data.scenes import make_scene


class Example(NamedTuple):
    """A scene and a caption.

    Attributes:
        seed: The seed that the scene is made from.
        objects: The objects that it shows.
        caption: The caption that is typed for it.
        foil: The caption that it is explained against, "" for none.
        kind: The kind of the scene.
    """

    seed: int
    objects: tuple[str, ...]
    caption: str
    foil: str = ""
    kind: Kind = "plain"

    @property
    def source(self) -> str:
        """The picture as an expression in Python."""
        kind = "" if self.kind == "plain" else f', kind="{self.kind}"'
        return f"make_scene({self.seed}, objects={self.objects}, size=384{kind}).image"

    def picture(self) -> Image.Image:
        """The picture."""
        return _scene(self.seed, self.objects, self.kind)


@lru_cache(maxsize=16)
def _scene(seed: int, objects: tuple[str, ...], kind: Kind) -> Image.Image:
    return make_scene(seed, objects=objects, size=384, kind=kind).image


EXAMPLES = (
    Example(7, ("cat", "key", "pineapple"), "a photo of a cat"),
    Example(3, ("crab", "strawberry", "tree"), "a crab next to a tree"),
    Example(33, ("crab", "tree", "moon"), "a red crab", "a blue crab", "attribute"),
    Example(11, ("bicycle", "mushroom", "guitar"), "a picture of a bicycle and a mushroom"),
    Example(5, ("penguin", "umbrella", "clock"), "there is a clock here"),
)
