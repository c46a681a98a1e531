"""RefCOCO and RefCOCOg: expressions that refer to one object (Yu et al., ECCV 2016; Mao et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Iterator

from m2ib_lightning.data.coco import coco_box
from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.huggingface import HuggingFace
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.data.truth import Polygon, Region, TruthReference


class RefCOCO(HuggingFace):
    """A pair for each expression; the truth is the outline of the object that it refers to, or else its box.

    Reads the Parquet files of lmms-lab/RefCOCO, RefCOCOplus and RefCOCOg, from the hub or from a folder: a row for each
    object, with `image`, `answer` (its expressions), `segmentation` (x and y of its outline in turn) and `bbox` (left,
    top, width, height). Ids are "question_id-number", the expressions of an object counted from 0.

    Args:
        path: A name on the hub, or a folder.
        split: Which part: "val", "test", "testA" or "testB".
    """

    def __init__(self, path: str, split: str = "val") -> None:
        super().__init__(path, split, columns=Columns(text="question", id="question_id"))

    def references(self) -> Iterator[PairReference]:
        """The pairs in the order of the files.

        Raises:
            ValueError: It cannot be read, or is another data set.
        """
        for row, pair in self.rows():
            expressions, outline, box = row["answer"], row.get("segmentation"), row["bbox"]
            if not isinstance(expressions, list) or len(box) != 4:
                raise ValueError(
                    f"Expected a list of expressions and a box in {pair.place} but got {expressions!r:.60} and {box}. "
                    "Remedy: give the files of lmms-lab/RefCOCO."
                )
            region: Region = Polygon(outline) if outline else coco_box(box)
            for number, text in enumerate(expressions):
                truth = TruthReference([region], parts=[((0, len(text)), [region])])
                yield pair._replace(id=f"{pair.id}-{number}", text=text, truth=truth)

    def count(self) -> None:
        """Not known: an object has several expressions."""

    def part(self, index: int, count: int) -> None:
        """None: read by one process after another."""
