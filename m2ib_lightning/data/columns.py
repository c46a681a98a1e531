"""From a row of named cells to a pair, the same for every kind of table."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from os.path import join
from typing import Any, NamedTuple

from m2ib_lightning.data.ids import UNNAMED
from m2ib_lightning.data.images import ImageSource, StoredImage
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.data.truth import MaskFile, Region, TruthReference
from m2ib_lightning.types import Asked, Truth

ALIASES = {"image": ("file_name", "jpg", "jpeg", "png", "webp", "tif", "dcm"), "text": ("txt",)}
"""What else the columns of the default names are called, by Hugging Face's image folders and by WebDataset."""


class Columns(NamedTuple):
    """Which column holds what. "json.caption" is the cell "caption" of the object in the cell "json".

    Attributes:
        image: A path relative to the table, or the image itself.
        text: The caption of the pair.
        id: The pair's id; "id" need not exist, ids then are made from the image names.
        boxes: Boxes of what the text names, a list of [left, top, right, bottom] in pixels of the image file, right and
            bottom exclusive; as JSON where cells are text. The default columns of truth need not exist, and cells may
            be empty.
        mask: A mask file like the image, not 0 where the text names something.
        spans: A list of [start, end] characters of the text that name what is shown, like the boxes.
        phrases: What to find in the picture: "auto", phrases of the text split by semicolons, or a list of these or of
            [start, end] characters. It need not exist, as those of truth.
        against: A caption, or the bytes of a picture, that the pair is explained against. The same.
    """

    image: str = "image"
    text: str = "text"
    id: str = "id"
    boxes: str = "boxes"
    mask: str = "mask"
    spans: str = "spans"
    phrases: str = "phrases"
    against: str = "against"

    def found(self, present: Collection[str], place: str) -> Columns:
        """The columns as they are called in a table; those that need not exist and do not are "".

        Raises:
            ValueError: A column is missing.
        """
        names = {}
        for key, name in self._asdict().items():
            default = name == Columns._field_defaults[key]
            tried = (name, *ALIASES.get(key, ())) if default else (name,)
            names[key] = next((n for n in tried if n in present or n.split(".")[0] in present), "")
            if not names[key] and not (default and key not in ("image", "text")):
                raise ValueError(
                    f"Expected a column {name!r} in {place} but got {', '.join(map(repr, present))}. "
                    f"Remedy: name one of those with {key}_column."
                )
        return Columns(**names)

    def reference(self, row: Mapping[str, Any], folder: str, place: str) -> PairReference:
        """The pair of a row, with columns as `found` names them.

        Args:
            row: The cells by the names of their columns.
            folder: What paths are relative to.
            place: What messages call the row.

        Raises:
            ValueError: A cell is of the wrong kind, or a column that must exist does not in this row.
        """
        image = _image(_cell(row, self.image, "image", place), folder, self.image, place)
        return PairReference(
            _text(_cell(row, self.id, "id", place), self.id, place) if self.id else UNNAMED,
            image,
            _text(_cell(row, self.text, "text", place), self.text, place),
            self._truth(row, folder, place),
            place,
            self._asked(row, folder, place),
        )

    def _asked(self, row: Mapping[str, Any], folder: str, place: str) -> Asked:
        phrases, against = (_cell(row, name, "", place) if name else None for name in (self.phrases, self.against))
        if isinstance(against, bytes | Mapping):
            against = _image(against, folder, self.against, place)
        return Asked(phrases, against)

    def _truth(self, row: Mapping[str, Any], folder: str, place: str) -> Truth | CellTruth:
        cells = [_cell(row, name, "", place) if name else None for name in (self.boxes, self.mask, self.spans)]
        given = any(cell is not None and cell != "" for cell in cells)
        return CellTruth(self, cells[0], cells[1], cells[2], folder, place) if given else Truth()


class CellTruth(NamedTuple):
    """The truth of a row, parsed only where it is wanted.

    Attributes:
        columns: The names of the columns, for messages.
        boxes: The cell with boxes, as it stands in the table.
        mask: The cell with the mask, or the path of its file.
        spans: The cell with spans, as it stands in the table.
        folder: What the mask's path is relative to.
        place: What messages call the row.
    """

    columns: Columns
    boxes: Any
    mask: Any
    spans: Any
    folder: str
    place: str

    def read(self, image: ImageSource, size: tuple[int, int], text: str) -> Truth:
        """The truth of the picture, as a `TruthReference` gives it."""
        boxes = _numbers(self.boxes, 4, self.columns.boxes, self.place) or []
        regions: list[Region] = [(b[0], b[1], b[2], b[3]) for b in boxes]
        if self.mask is not None and self.mask != "":
            mask = _image(self.mask, self.folder, self.columns.mask, self.place)
            assert isinstance(mask, str | StoredImage)
            regions.append(MaskFile(mask))
        spans = _numbers(self.spans, 2, self.columns.spans, self.place)
        known = TruthReference(regions, None if spans is None else [(int(a), int(b)) for a, b in spans])
        return known.read(image, size, text)


def _cell(row: Mapping[str, Any], name: str, key: str, place: str) -> Any:
    """A cell, also one inside of another; of a column that need not exist (no key) None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            if not key:
                return None
            raise ValueError(
                f"Expected a column {name!r} in {place} but got {', '.join(map(repr, row))}. "
                f"Remedy: name one of those with {key}_column."
            )
        value = value[part]
    return value


def _text(value: Any, name: str, place: str) -> str:
    if isinstance(value, bool | list | dict | bytes):
        raise ValueError(f"Expected a string in {name!r}, {place}, but got {value!r:.80}. Remedy: one string.")
    return "" if value is None else str(value)


def _image(value: Any, folder: str, name: str, place: str) -> ImageSource:
    """A path, or the bytes of a file as `datasets` and Parquet files hold them."""
    if isinstance(value, bytes):
        return StoredImage(place, value)
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        return StoredImage(value.get("path") or place, value["bytes"])
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        value = value["path"]
    path = _text(value, name, place)
    return join(folder, path) if path else ""


def _numbers(value: Any, each: int, name: str, place: str) -> list[list[float]] | None:
    """A list of lists of so many numbers, or None for an empty cell."""
    if value is None or value == "":
        return None
    try:
        rows = json.loads(value) if isinstance(value, str) else value
        if each and rows and not isinstance(rows[0], list | tuple):
            rows = [rows]  # one of them, unwrapped
        numbers = [[float(number) for number in row] for row in rows]
        if any(len(row) != each or not all(map(math.isfinite, row)) for row in numbers):
            raise ValueError
        return numbers
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ValueError(
            f"Expected a list of lists of {each} finite numbers in {name!r}, {place}, but got {value!r:.80}. "
            f"Remedy: {'[[left, top, right, bottom], ...]' if each == 4 else '[[start, end], ...]'}."
        ) from None
