"""Composed scenes as a source of pairs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from PIL import Image

from m2ib_lightning.checks import check_at_least
from m2ib_lightning.data.pairs import PairSource
from m2ib_lightning.data.scene_kinds import Kind, scene_counts
from m2ib_lightning.data.scenes import Scene, make_scene
from m2ib_lightning.types import Asked, Truth


class SceneReference:
    """A composed scene as a pair, made when its text or image is asked for.

    Args:
        seed: The seed that the scene follows from.
        objects: How many objects it shows.
        named: How many of them its caption names.
        kind: What it is like.
    """

    place = ""
    asked = Asked()

    def __init__(self, seed: int, objects: int, named: int, kind: Kind = "plain") -> None:
        self.id, self.seed, self.options, self.kind = f"scene-{seed:06d}", seed, (objects, named), kind

    @cached_property
    def scene(self) -> Scene:
        """The scene, with the truth about its pixels and words."""
        return make_scene(self.seed, *self.options, kind=self.kind)

    @property
    def image(self) -> Image.Image:
        """The picture of the scene."""
        return self.scene.image

    @property
    def text(self) -> str:
        """The caption of the scene."""
        return self.scene.text

    @property
    def truth(self) -> Truth:
        """The pixels of what is named, and its characters."""
        return self.scene.truth


class Scenes(PairSource):
    """Composed scenes, each made when it is asked for. The one of seed 7 has the id "scene-000007".

    Args:
        count: How many scenes there are.
        seed: The seed of the first scene; the next one has the next seed.
        objects: How many objects each scene shows; by default what the kind has.
        named: How many of them its caption names; by default what the kind has.
        kind: What the scenes are like, see `scene_kinds.Kind`.

    Raises:
        ValueError: There are no such scenes.
    """

    fixed = True

    def __init__(
        self, count: int, seed: int = 0, objects: int | None = None, named: int | None = None, kind: Kind = "plain"
    ) -> None:
        check_at_least("scenes", count, 1)
        check_at_least("scene_seed", seed, 0)
        self.seeds, self.kind = range(seed, seed + count), kind
        self.objects, self.named = scene_counts(kind, objects, named)
        self.scene(0)  # refuses numbers of objects that cannot be

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> SceneReference:
        return SceneReference(self.seeds[index], self.objects, self.named, self.kind)

    def references(self) -> Iterator[SceneReference]:
        """The scenes in order, none of them made."""
        return (self[index] for index in range(len(self)))

    def __iter__(self) -> Iterator[SceneReference]:
        return self.references()

    def count(self) -> int:
        """How many scenes there are."""
        return len(self)

    def scene(self, index: int) -> Scene:
        """The scene behind a pair, with the truth about its pixels and words."""
        return self[index].scene
