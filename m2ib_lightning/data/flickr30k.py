"""Flickr30k Entities: captions whose phrases are linked to boxes (Plummer et al., ICCV 2015)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from os.path import join
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from m2ib_lightning.data.images import ImageSource
from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.data.truth import TruthReference
from m2ib_lightning.types import Box, Truth

PHRASE = re.compile(r"\[/EN#(\d+)(?:/[^ \]]*)? ([^\]]*)\]")
"""[/EN#1/people Two young guys]: the number of the entity, its kinds and the words."""


class Flickr30kEntities(PairSource):
    """A pair for each sentence; the truth is the boxes of all entities that it names, and the phrases that name them.

    Phrases without a box (what is not to be seen, whole scenes) are no truth. Ids are "image-number", the sentences of
    an image counted from 0.

    Args:
        annotations: The folder with `Sentences/*.txt` and `Annotations/*.xml`.
        images: The folder of the pictures, ID.jpg.
        split: A file with the image ids of a split, one a line, such as test.txt; all images by default.
    """

    def __init__(self, annotations: str, images: str, split: str | None = None) -> None:
        self.annotations, self.images, self.split = Path(annotations), images, split

    def references(self) -> Iterator[PairReference]:
        """The pairs, by image.

        Raises:
            ValueError: There are no sentences, or a file is malformed.
        """
        for name in self._names:
            file = self.annotations / "Sentences" / f"{name}.txt"
            if not file.is_file():
                raise ValueError(f"Expected sentences in {file}, which does not exist. Remedy: correct the path.")
            lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
            for number, line in enumerate(lines):
                text, phrases = parse_sentence(line)
                truth = EntityTruth(str(self.annotations / "Annotations" / f"{name}.xml"), tuple(phrases))
                image = join(self.images, f"{name}.jpg")
                yield PairReference(f"{name}-{number}", image, text, truth, f"line {number + 1} of {file}")

    @cached_property
    def _names(self) -> list[str]:
        if self.split is not None:
            names = [line.strip() for line in Path(self.split).read_text("utf-8").splitlines() if line.strip()]
        else:
            names = sorted(file.stem for file in (self.annotations / "Sentences").glob("*.txt"))
        if not names:
            raise ValueError(
                f"Expected Sentences/*.txt in {self.annotations} but got none. "
                "Remedy: give the folder of the unpacked annotations."
            )
        return names


class EntityTruth(NamedTuple):
    """The truth of a sentence, its boxes read only where they are wanted.

    Attributes:
        file: The file that holds the boxes.
        phrases: The entity and the (start, end) characters of each phrase.
    """

    file: str
    phrases: tuple[tuple[str, tuple[int, int]], ...]

    def read(self, image: ImageSource, size: tuple[int, int], text: str) -> Truth:
        """The truth of the picture, as a `TruthReference` gives it."""
        boxes, drawn = read_boxes(self.file)
        seen = [(entity, span) for entity, span in self.phrases if entity in boxes]
        if not seen:
            return Truth()
        regions = [box for entity in dict.fromkeys(entity for entity, _ in seen) for box in boxes[entity]]
        parts = [(span, boxes[entity]) for entity, span in seen]
        return TruthReference(regions, [span for _, span in seen], drawn, parts).read(image, size, text)


def parse_sentence(line: str) -> tuple[str, list[tuple[str, tuple[int, int]]]]:
    """A sentence without its markup, and the entity and the (start, end) characters of each phrase.

    Example:
        >>> parse_sentence("[/EN#1/people A man] on [/EN#2/vehicles a bike] .")
        ('A man on a bike .', [('1', (0, 5)), ('2', (9, 15))])
    """
    text, phrases, last = "", [], 0
    for match in PHRASE.finditer(line):
        text += line[last : match.start()]
        phrases.append((match[1], (len(text), len(text) + len(match[2]))))
        text += match[2]
        last = match.end()
    return (text + line[last:]).rstrip(), phrases


def read_boxes(file: str | Path) -> tuple[dict[str, list[Box]], tuple[int, int] | None]:
    """The boxes of each entity of a picture, and the picture's (width, height).

    The file counts pixels from 1 and includes the last one, as Pascal VOC does.

    Raises:
        ValueError: It is missing or malformed.
    """
    try:
        root = ElementTree.parse(file).getroot()
        boxes: dict[str, list[Box]] = defaultdict(list)
        for thing in root.iter("object"):
            for box in thing.iter("bndbox"):
                left, top, right, bottom = (int(box.findtext(k, "")) for k in ("xmin", "ymin", "xmax", "ymax"))
                for name in thing.iter("name"):
                    boxes[str(name.text)].append((left - 1, top - 1, right, bottom))
        size = tuple(int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    except (OSError, ElementTree.ParseError, ValueError) as problem:
        raise ValueError(f"Expected boxes in {file} but got: {problem}. Remedy: get the file again.") from problem
    return dict(boxes), (size[0], size[1]) if all(size) else None
