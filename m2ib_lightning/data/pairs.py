"""Image-text pairs as cheap references: where they come from, whether they can be read, and reading one."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from m2ib_lightning.data.images import ImageSource, check_image, load_image
from m2ib_lightning.types import Pair, Truth

TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": ""}
"""Suffixes of the files that `read_source` reads, with what separates their cells."""

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Suffixes that make a file of a folder an image."""


class PairReference(NamedTuple):
    """One pair before it is read.

    Attributes:
        id: Unique among its neighbours, and fit to be a file name.
        image: A path, or a picture in memory.
        text: The caption, as given.
        truth: What a map should find, where data says so.
    """

    id: str
    image: ImageSource
    text: str
    truth: Truth = Truth()


def make_references(images: ImageSource | Sequence[ImageSource], texts: str | Sequence[str]) -> list[PairReference]:
    """Pairs from images and texts, the first with the first and so on; a single one goes with all of the others.

    Raises:
        ValueError: The numbers of images and texts do not fit.

    Example:
        >>> [pair.id for pair in make_references("animals/cat.jpg", ["a cat", "a dog"])]
        ['cat', 'cat-2']
    """
    images = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    texts = [texts] if isinstance(texts, str) else list(texts)
    count = max(len(images), len(texts))
    if not images or not texts or not {len(images), len(texts)} <= {1, count}:
        raise ValueError(
            f"Expected as many texts as images, or one of either, but got {len(images)} images and {len(texts)} texts. "
            "Remedy: one text for each image."
        )
    images *= count // len(images)
    texts *= count // len(texts)
    ids = _default_ids("image" if isinstance(image, Image.Image) else Path(str(image)).stem for image in images)
    return [PairReference(*fields) for fields in zip(ids, images, texts, strict=True)]


def read_source(
    source: str | Path, image_column: str = "image", text_column: str = "text", id_column: str = "id"
) -> list[PairReference]:
    """The pairs of a file or of a folder, images unread.

    A file is CSV, TSV or JSON Lines in UTF-8 with a header; its image paths are relative to its own folder. A folder
    holds such a file named metadata.csv, metadata.tsv or metadata.jsonl (the imagefolder convention of Hugging Face),
    or images, also in subfolders, each with its caption beside it in a .txt file of the same name. Ids that are not
    given are made from the names of the images: "cat", "cat-2", ...

    Args:
        source: The file or folder.
        image_column: Column with the image's path; "file_name" is accepted for the default, "image".
        text_column: Column with the caption.
        id_column: Column with the pair's id. It need not exist if it is "id".

    Raises:
        ValueError: There are no pairs, a column is missing, a line is malformed, or an id is doubled or no file name.
            A pair that cannot be read is no error here; see `check_all`.
    """
    path = Path(source)
    if path.is_dir():
        tables = [path / f"metadata{suffix}" for suffix in TABLES if (path / f"metadata{suffix}").is_file()]
        if not tables:
            return _read_folder(path)
        path = tables[0]
    if not path.is_file():
        raise ValueError(
            f"Expected a file or folder of pairs but got {path}, which does not exist. Remedy: correct the path."
        )
    if path.suffix.lower() not in TABLES:
        raise ValueError(
            f"Expected a file of pairs ({', '.join(TABLES)}) or a folder but got {path}. Remedy: convert it."
        )
    return _read_table(path, image_column, text_column, id_column)


def check_all(references: Sequence[PairReference]) -> None:
    """Make sure that every pair can be read, without keeping any; an image of several pairs is tried once.

    Raises:
        ValueError: The first pair that cannot be read, by row and id, with the reason.
    """
    seen: set[str] = set()
    for row, (name, image, text, _) in enumerate(references, 1):
        try:
            _check_text(text)
            if isinstance(image, Image.Image) or str(image) not in seen:
                check_image(image)
        except ValueError as problem:
            raise ValueError(f"Pair {row} of {len(references)}, {name!r}: {problem}") from problem
        if not isinstance(image, Image.Image):
            seen.add(str(image))


def read_pair(reference: PairReference) -> Pair:
    """The pair with its image decoded.

    Raises:
        ValueError: The image cannot be read or the caption is empty; this says nothing about other pairs.
    """
    _check_text(reference.text)
    source = "" if isinstance(reference.image, Image.Image) else str(reference.image)
    return Pair(reference.id, load_image(reference.image), reference.text, source, reference.truth)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"Expected a text but got {type(text).__name__}. Remedy: give a string.")
    if not text.strip():
        raise ValueError("Expected a caption but got an empty text. Remedy: write one or leave the pair out.")


def _read_folder(folder: Path) -> list[PairReference]:
    """Images with captions beside them; one without a caption gets an empty text, which `check_all` reports."""
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.name[0] != ".")
    captions = [image.with_suffix(".txt") for image in images]
    if not any(caption.is_file() for caption in captions):
        raise ValueError(
            f"Expected images with captions in {folder} but got {len(images)} images and no captions. "
            "Remedy: a metadata.csv with the columns file_name and text, or cat.txt beside cat.jpg."
        )
    texts = [_read_text(caption).strip() if caption.is_file() else "" for caption in captions]
    ids = _default_ids(image.relative_to(folder).with_suffix("").as_posix() for image in images)
    return [PairReference(*fields) for fields in zip(ids, map(str, images), texts, strict=True)]


def _read_table(path: Path, image_column: str, text_column: str, id_column: str) -> list[PairReference]:
    """The pairs of a CSV, TSV or JSON Lines file."""
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"Expected pairs in {path} but got none. Remedy: a header and one pair a line.")
    first = rows[0][1]
    if image_column == "image" and "image" not in first and "file_name" in first:
        image_column = "file_name"
    named = id_column != "id" or "id" in first
    images = [_cell(path, line, row, image_column) for line, row in rows]
    texts = [_cell(path, line, row, text_column) for line, row in rows]
    if named:
        ids = [_cell(path, line, row, id_column) for line, row in rows]
        _check_ids(path, ids, [line for line, _ in rows])
    else:
        ids = _default_ids(Path(image).stem for image in images)
    paths = [str(path.parent / image) if image else "" for image in images]
    return [PairReference(*fields) for fields in zip(ids, paths, texts, strict=True)]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row as its line, from 1 (the last one if it has several), and its cells by column."""
    separator, text = TABLES[path.suffix.lower()], _read_text(path)
    return _csv_rows(path, text, separator) if separator else _json_rows(path, text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"Expected text in UTF-8 but got {problem} in {path}. Remedy: save it as UTF-8.") from problem


def _csv_rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(StringIO(text), delimiter=separator, strict=True)
    try:
        for row in reader:
            if None in row:
                raise csv.Error("more cells than columns")
            yield reader.line_num, row
    except csv.Error as problem:
        raise ValueError(
            f"Expected one cell a column in line {reader.reader.line_num} of {path} but got {problem}. "
            "Remedy: put a text with separators or quotes in double quotes, and double those inside."
        ) from problem


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(StringIO(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            row = f"{problem.msg} at character {problem.colno}"
        if not isinstance(row, dict):
            raise ValueError(
                f"Expected a JSON object in line {number} of {path} but got {row!r:.80}. Remedy: one object a line."
            )
        yield number, row


def _cell(path: Path, line: int, row: dict[str, Any], column: str) -> str:
    if column not in row:
        raise ValueError(
            f"Expected a column {column!r} in {path} (line {line}) but got {', '.join(map(repr, row))}. "
            "Remedy: name one of those with image_column, text_column or id_column."
        )
    value = row[column]
    if isinstance(value, bool | list | dict):
        raise ValueError(
            f"Expected a string in {column!r}, line {line} of {path}, but got {value!r:.80}. Remedy: one string."
        )
    return "" if value is None else str(value)


def _check_ids(path: Path, ids: Sequence[str], lines: Sequence[int]) -> None:
    """Ids name the files that are written for a pair, so they must be distinct and file names everywhere."""
    first: dict[str, int] = {}
    for name, line in zip(ids, lines, strict=True):
        unsafe = re.search(r'[\x00-\x1f/\\:*?"<>|]', name) or not name.strip(". ")
        if unsafe or len(name.encode("utf-8", "replace")) > 200:
            raise ValueError(
                f"Expected an id that can be a file name but got {name!r:.80} in line {line} of {path}. "
                "Remedy: use letters, digits, '.', '-' and '_', or no id column."
            )
        if name in first:
            raise ValueError(
                f"Expected distinct ids but got {name!r} in lines {first[name]} and {line} of {path}. "
                "Remedy: rename one, or drop the id column to have ids made."
            )
        first[name] = line


def _default_ids(names: Iterable[str]) -> list[str]:
    """Distinct file names, like the names given; distinct also where upper and lower case are one."""
    taken: set[str] = set()
    count: dict[str, int] = {}
    ids = []
    for name in names:
        stem = unique = re.sub(r"[^\w.]+", "-", name).strip("-.")[:60] or "image"
        while unique.casefold() in taken:
            count[stem.casefold()] = count.get(stem.casefold(), 1) + 1
            unique = f"{stem}-{count[stem.casefold()]}"
        taken.add(unique.casefold())
        ids.append(unique)
    return ids
