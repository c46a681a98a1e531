"""MS-CXR: findings of chest X-rays with their boxes (Boecking et al., BioViL, ECCV 2022), over MIMIC-CXR-JPG."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import join
from pathlib import Path
from typing import Any, NamedTuple

from m2ib_lightning.data.coco import coco_box, read_coco
from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.data.tables import rows_of
from m2ib_lightning.data.truth import TruthReference
from m2ib_lightning.types import Box

COLUMNS = ("category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")
"""Of the CSV file; a further one is `split`."""


class MSCXR(PairSource):
    """A pair for each picture and finding; the truth is the union of the finding's boxes.

    Reads the CSV or the COCO-style JSON file of the release. Pictures may be of another size than the ones that the
    boxes were drawn on, with the same proportions. Ids are "picture-number", the findings of a picture counted from 0.

    Args:
        annotations: The file, such as MS_CXR_Local_Alignment_v1.1.0.csv.
        images: The folder of MIMIC-CXR-JPG, where `files/p10/...` is.
        split: Only pairs of this split ("train", "val", "test"), which the CSV file has since version 1.1.
    """

    def __init__(self, annotations: str, images: str, split: str | None = None) -> None:
        self.annotations, self.images, self.split = Path(annotations), images, split

    def references(self) -> Iterator[PairReference]:
        """The pairs in the order of the file, boxes of one finding together.

        Raises:
            ValueError: It is another file, or has no pairs.
        """
        findings: dict[tuple[str, str], Finding] = {}
        for path, text, box, size in self._boxes():
            findings.setdefault((path, text), Finding([], size)).boxes.append(box)
        if not findings:
            raise ValueError(f"Expected pairs in {self.annotations} but got none. Remedy: name another split.")
        count: dict[str, int] = {}
        for (path, text), finding in findings.items():
            number = count[path] = count.get(path, -1) + 1
            truth = TruthReference(finding.boxes, size=finding.size)
            yield PairReference(f"{Path(path).stem}-{number}", join(self.images, path), text, truth)

    def count(self) -> int:
        """The number of pairs; reads the file."""
        return sum(1 for _ in self.references())

    def _boxes(self) -> Iterator[tuple[str, str, Box, tuple[int, int]]]:
        """Path, finding, box and size of the picture, for each box."""
        if not self.annotations.is_file():
            raise ValueError(f"Expected a file but {self.annotations} does not exist. Remedy: correct the path.")
        yield from self._json() if self.annotations.suffix.lower() == ".json" else self._csv()

    def _csv(self) -> Iterator[tuple[str, str, Box, tuple[int, int]]]:
        for line, row in rows_of(self.annotations):
            missing = [c for c in (*COLUMNS, *(["split"] if self.split else [])) if c not in row]
            if missing:
                raise ValueError(
                    f"Expected columns {', '.join(missing)} in {self.annotations} but got {', '.join(row)}. "
                    "Remedy: give the file as released."
                )
            if self.split and row["split"] != self.split:
                continue
            try:
                box = coco_box([float(row[key]) for key in "xywh"])
                size = (int(float(row["image_width"])), int(float(row["image_height"])))
            except ValueError as problem:
                raise ValueError(
                    f"Expected numbers in line {line} of {self.annotations} but {problem}. Remedy: correct the line."
                ) from problem
            yield row["path"], row["label_text"], box, size

    def _json(self) -> Iterator[tuple[str, str, Box, tuple[int, int]]]:
        if self.split:
            raise ValueError("Expected no `split` with the JSON file, which has none. Remedy: give the CSV file.")
        read = read_coco(self.annotations, "images", "annotations")
        images: dict[Any, Any] = {image["id"]: image for image in read["images"]}
        for thing in read["annotations"]:
            image, texts = images[thing["image_id"]], thing["label_text"]
            size = (int(image["width"]), int(image["height"]))
            for text in [texts] if isinstance(texts, str) else texts:
                yield image.get("path") or image["file_name"], text, coco_box(thing["bbox"]), size


class Finding(NamedTuple):
    """What is known of one finding.

    Attributes:
        boxes: Where the finding is, in pixels.
        size: (width, height) of the picture that they were drawn on.
    """

    boxes: list[Box]
    size: tuple[int, int]
