"""Pairs in a CSV, TSV or JSON Lines file, read line by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.pairs import PairReference, PairSource

TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": ""}
"""Suffixes of the files that are read here, with what separates their cells."""

LARGEST_CELL = 2**31 - 1
"""Characters; what is too long for a caption is that pair's fault alone."""


class Table(PairSource):
    """The pairs of a CSV, TSV or JSON Lines file in UTF-8, the first two with a header.

    Args:
        path: The file that holds the table.
        columns: Which column holds what.

    Raises:
        ValueError: There is no such file.
    """

    def __init__(self, path: str | Path, columns: Columns = Columns()) -> None:  # noqa: B008, a NamedTuple
        self.path, self.columns = Path(path), columns
        if not self.path.is_file():
            raise ValueError(
                f"Expected a file or folder of pairs but got {path}, which does not exist. Remedy: correct the path."
            )

    def references(self) -> Iterator[PairReference]:
        """The pairs, line by line.

        Raises:
            ValueError: There are no pairs, a column is missing, a line is malformed, or the file is no UTF-8.
        """
        columns, folder = None, str(self.path.parent)
        for line, row in rows_of(self.path):
            place = f"line {line} of {self.path}"
            columns = columns or self.columns.found(row, place)
            yield columns.reference(row, folder, place)
        if columns is None:
            raise ValueError(f"Expected pairs in {self.path} but got none. Remedy: a header and one pair a line.")

    def count(self) -> int:
        """The number of pairs; reads every line, 10^6 in some seconds.

        Raises:
            ValueError: See `references`.
        """
        next(self.references())  # every line of a CSV file has the columns of the first
        rows = rows_of(self.path) if TABLES[self.path.suffix.lower()] else self.references()
        return sum(1 for _ in rows)


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row of a table as its line, from 1 (the last one if it has several), and its cells by column.

    Args:
        path: Its suffix says what separates cells.

    Raises:
        ValueError: A line is malformed, or the file is no UTF-8.
    """
    separator = TABLES[path.suffix.lower()]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(path, file, separator) if separator else _json_rows(path, file)
    except UnicodeDecodeError as problem:
        raise ValueError(f"Expected text in UTF-8 but got {problem} in {path}. Remedy: save it as UTF-8.") from problem


def _csv_rows(path: Path, file: Any, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(LARGEST_CELL)  # by default a caption beyond 131,072 characters ends the whole table
    reader = csv.reader(file, delimiter=separator, strict=True)
    try:
        columns = next((row for row in reader if row), [])
        for row in reader:
            if len(row) > len(columns):
                raise csv.Error("more cells than columns")
            if row:
                row += [""] * (len(columns) - len(row))
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except csv.Error as problem:
        raise ValueError(
            f"Expected one cell a column in line {reader.line_num} of {path} but got {problem}. "
            "Remedy: put a text with separators or quotes in double quotes, and double those inside."
        ) from problem


def _json_rows(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            row = f"{problem.msg} at character {problem.colno}"
        except (ValueError, RecursionError) as problem:  # a number of thousands of digits, lists in lists in lists
            row = str(problem)
        if not isinstance(row, dict):
            raise ValueError(
                f"Expected a JSON object in line {number} of {path} but got {row!r:.80}. Remedy: one object a line."
            )
        yield number, row
