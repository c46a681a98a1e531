"""COCO captions, with the objects that they name as truth (Lin et al., ECCV 2014; Chen et al., arXiv 1504.00325)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from os.path import join
from pathlib import Path
from typing import Any

from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.data.truth import Polygon, Region, RunLengths, TruthReference
from m2ib_lightning.types import Truth

SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": (
        *("people", "man", "men", "woman", "women", "boy", "girl", "child", "children", "kid", "baby", "guy", "lady"),
        *("player", "skier", "surfer", "skateboarder", "snowboarder", "rider"),
    ),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "jet"),
    "couch": ("sofa",),
    "tv": ("television",),
    "cell phone": ("phone", "cellphone"),
    "dining table": ("table",),
    "potted plant": ("plant",),
    "sports ball": ("ball",),
    "refrigerator": ("fridge",),
    "donut": ("doughnut",),
    "dog": ("puppy", "puppies"),
    "cat": ("kitten",),
    "knife": ("knives",),
}
"""Further words for a category, in the singular or irregular."""


class COCO(PairSource):
    """A pair for each caption; the truth is every instance of every category that the caption names.

    COCO does not say which objects a caption names. A category is taken as named where its name or one of its synonyms
    is in the caption as whole words, in singular or plural, upper or lower case, and the picture has an instance of
    it; of overlapping names the longest counts ("hot dog" is no dog). All instances of it are then the truth, crowds
    included, also where the caption means one of several. A caption that names none has no truth. Ids are
    "image-caption", the numbers of both.

    Args:
        captions: The file with captions, such as captions_val2017.json.
        images: The folder of the pictures.
        instances: The file with objects, such as instances_val2017.json; without it there is no truth.
        synonyms: Further words by category, instead of `SYNONYMS`.
    """

    def __init__(
        self, captions: str, images: str, instances: str | None = None, synonyms: dict[str, list[str]] | None = None
    ) -> None:
        self.captions, self.images, self.instances = captions, images, instances
        self.synonyms: Mapping[str, Sequence[str]] = SYNONYMS if synonyms is None else synonyms

    def references(self) -> Iterator[PairReference]:
        """The pairs in the order of the captions.

        Raises:
            ValueError: A file is not COCO's.
        """
        files = {image["id"]: image for image in self._captions["images"]}
        for caption in self._captions["annotations"]:
            number, image = caption["image_id"], files.get(caption["image_id"])
            if image is None:
                raise ValueError(
                    f"Expected an image {number} in {self.captions} but there is none. Remedy: get the file again."
                )
            text = caption["caption"].strip()
            yield PairReference(
                f"{number}-{caption['id']}", join(self.images, image["file_name"]), text,
                self._truth(text, number, (image.get("width"), image.get("height"))), f"caption {caption['id']}",
            )  # fmt: skip

    def count(self) -> int:
        """The number of captions.

        Raises:
            ValueError: A file is not COCO's.
        """
        _ = self._objects
        return len(self._captions["annotations"])

    @cached_property
    def _captions(self) -> dict[str, Any]:
        return read_coco(self.captions, "images", "annotations")

    @cached_property
    def _objects(self) -> dict[int, dict[str, list[Any]]]:
        """Of each image the segmentations of each category."""
        found: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        if self.instances is not None:
            read = read_coco(self.instances, "annotations", "categories")
            names = {category["id"]: category["name"] for category in read["categories"]}
            for thing in read["annotations"]:
                found[thing["image_id"]][names[thing["category_id"]]].append(thing["segmentation"] or [thing["bbox"]])
        return {image: dict(things) for image, things in found.items()}

    def _truth(self, text: str, image: int, size: tuple[int | None, int | None]) -> Truth | TruthReference:
        objects = self._objects.get(image, {})
        named = named_categories(text, {name: (name, *self.synonyms.get(name, ())) for name in objects})
        if not named:
            return Truth()
        shapes = {
            name: [r for shape in objects[name] for r in regions_of(shape)] for name in dict.fromkeys(named.values())
        }
        width, height = size
        known = None if width is None or height is None else (int(width), int(height))
        parts = [(span, shapes[name]) for span, name in sorted(named.items())]
        return TruthReference([r for some in shapes.values() for r in some], sorted(named), known, parts)


def named_categories(text: str, words: Mapping[str, Sequence[str]]) -> dict[tuple[int, int], str]:
    """Which categories a text names, by the (start, end) characters of the word.

    Args:
        text: The caption that is searched.
        words: The words for each category, in the singular or irregular.

    Example:
        >>> named_categories("Two dogs and a hot dog", {"dog": ["dog"], "hot dog": ["hot dog"]})
        {(4, 8): 'dog', (15, 22): 'hot dog'}
    """
    category = {word.lower(): name for name, many in words.items() for word in many}
    if not category:
        return {}
    longest_first = "|".join(re.escape(word) for word in sorted(category, key=len, reverse=True))
    found = re.finditer(rf"\b({longest_first})(?:s|es)?\b", text, re.IGNORECASE)
    return {match.span(): category[match[1].lower()] for match in found}


def regions_of(segmentation: Any) -> list[Region]:
    """The regions of COCO's `segmentation`: outlines, or the run lengths of a crowd; or a `bbox` in a list.

    Raises:
        ValueError: Run lengths are compressed.
    """
    if not isinstance(segmentation, dict):
        return [coco_box(shape) if len(shape) == 4 else Polygon(shape) for shape in segmentation]
    if isinstance(segmentation["counts"], str | bytes):
        raise ValueError(
            "Expected run lengths as numbers but got a compressed string. Remedy: decode them with pycocotools."
        )
    height, width = segmentation["size"]
    return [RunLengths(segmentation["counts"], (height, width))]


def coco_box(box: Sequence[float]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of COCO's (left, top, width, height)."""
    return (box[0], box[1], box[0] + box[2], box[1] + box[3])


def read_coco(path: str | Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file, with the lists that it must have.

    Raises:
        ValueError: The file does not exist or is another one.
    """
    try:
        read = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"Expected a COCO file but got {path}: {problem}. Remedy: correct the path.") from problem
    missing = [key for key in keys if not isinstance(read, dict) or not isinstance(read.get(key), list)]
    if missing:
        raise ValueError(
            f"Expected {', '.join(missing)} in {path} but there are none. Remedy: give the file as released."
        )
    return dict(read)
