"""Pairs in Parquet files and WebDataset tar shards; a file that is damaged is one bad pair, and the rest is read."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.images import StoredImage, image_name
from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.types import BadPair

SHARDS = (".parquet", ".tar")
"""Suffixes of the files that are read here."""

Row = dict[str, Any]


class Shards(PairSource):
    """The pairs of Parquet files or of WebDataset tar files, read in the order of their names.

    Images may be in the files or paths relative to them. In a tar file a pair is the image, `.txt` and `.json` files of
    one key, and its id is "shard-key". What can be read of a damaged file is read; then comes one bad pair named like
    the file. Several processes each read their own files where there are enough files and ids; else all read all of
    them and keep their own pairs.

    Args:
        files: Their paths, with wild cards; all of one suffix.
        columns: Which column holds what.

    Raises:
        ValueError: There are none.
    """

    holds_images = True

    def __init__(self, files: str | Path, columns: Columns = Columns()) -> None:  # noqa: B008, a NamedTuple
        self.files, self.columns = sorted(glob.glob(str(files))), columns
        self._found: Columns | None = None
        if not self.files:
            raise ValueError(f"Expected files but {files} matches none. Remedy: correct the path.")

    def references(self) -> Iterator[PairReference | BadPair]:
        """The pairs, file by file, and a bad pair after what could be read of a damaged file.

        Raises:
            ValueError: No file can be read at all, or a column is missing.
        """
        columns = self._columns()
        for file in self.files:
            done = 0
            try:
                for done, row in enumerate(_rows(file), 1):
                    yield row if isinstance(row, BadPair) else self._reference(file, done, row, columns)
            except Damaged as problem:
                fault = f"Expected a whole file but {file} is damaged or cut short after {done} pairs ({problem}). "
                yield BadPair(Path(file).stem, "", file, fault + "Remedy: get it again, then --retry_errors true.")

    def count(self) -> int | None:
        """The number of rows of Parquet files, a damaged file counted as one; None for tar files.

        Raises:
            ValueError: See `references`.
        """
        self._columns()
        return sum(map(_count, self.files)) if Path(self.files[0]).suffix.lower() == ".parquet" else None

    def part(self, index: int, count: int) -> PairSource | None:
        """Its own files for each of `count` processes, where ids do not depend on the other files."""
        own = self._columns().id or Path(self.files[0]).suffix.lower() == ".tar"
        if not own or len(self.files) < count:
            return None
        part = Shards(self.files[0], self.columns)
        part.files, part._found = self.files[index::count], self._found
        return part

    def _columns(self) -> Columns:
        """The columns as the first row has them."""
        if self._found is None:
            faults = []
            for file in self.files:
                try:
                    row = next((row for row in _rows(file) if not isinstance(row, BadPair)), None)
                except Damaged as problem:
                    faults.append(f"{file} is damaged ({problem})")
                    continue
                if row is not None:
                    self._found = self.columns.found([name for name in row if not name.startswith("__")], file)
                    return self._found
            raise ValueError(
                f"Expected pairs in {self.files[0]} but {faults[0] if faults else 'there are none'}. "
                "Remedy: get the files again, or correct the path."
            )
        return self._found

    def _reference(self, file: str, number: int, row: Row, columns: Columns) -> PairReference:
        key = row.get("__key__")
        place = f"row {number} of {file}" if key is None else f"{key} of {file}"
        names = {name.split(".")[0] for name in columns if name}
        pair = columns.reference(dict.fromkeys(names) | row, str(Path(file).parent), place)
        if key is None:
            return pair
        if isinstance(pair.image, StoredImage):
            pair = pair._replace(image=pair.image._replace(name=f"{file}/{image_name(pair.image)}"))
        return pair if columns.id else pair._replace(id=f"{Path(file).stem}-{key}".replace("/", "-"))


class Damaged(Exception):
    """A file cannot be read to its end."""


def _rows(file: str) -> Iterator[Row | BadPair]:
    """The rows of a file.

    Raises:
        Damaged: It cannot be read, or not to its end.
    """
    read = _tar_rows if Path(file).suffix.lower() == ".tar" else _parquet_rows
    try:
        yield from read(file)
    except (OSError, ValueError, tarfile.TarError, EOFError) as problem:
        raise Damaged(" ".join(str(problem).split())[:120].rstrip(". ") or type(problem).__name__) from problem


def _count(file: str) -> int:
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(file).metadata.num_rows)
    except (OSError, ValueError):
        return 1


def _parquet_rows(file: str) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(batch_size=16):
        yield from batch.to_pylist()


NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
"""Key and kind of a file in a tar file: the name up to its first dot, and what follows."""


def _tar_rows(file: str) -> Iterator[Row | BadPair]:
    """The files of one key after the other as a row: `__key__`, and a cell by kind ("jpg", "txt", "json")."""
    with tarfile.open(file, "r:") as tar:
        row: Row = {}
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
            found = NAME.fullmatch(member.name)
            if not member.isfile() or found is None or found[1].rpartition("/")[2].startswith("."):
                continue
            if row and row["__key__"] != found[1]:
                yield _parsed(row, file)
                row = {}
            contents = tar.extractfile(member)
            assert contents is not None
            row |= {"__key__": found[1], found[2].lower(): (contents.read(), member.name)}
        # A file that is cut between two of its own ends like a whole one, but for the empty block that closes it.
        with open(file, "rb") as raw:
            raw.seek(tar.offset)
            if raw.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
        if row:
            yield _parsed(row, file)


def _parsed(row: Row, file: str) -> Row | BadPair:
    """Cells as text, objects or image files; a row with one that cannot be parsed is a bad pair."""
    parsed, key = {"__key__": row["__key__"]}, row["__key__"]
    try:
        for kind, (data, name) in ((kind, cell) for kind, cell in row.items() if kind != "__key__"):
            ending = kind.rpartition(".")[2]
            if ending == "json":
                parsed[kind] = json.loads(data)
            elif ending in ("txt", "text", "cls", "caption"):
                parsed[kind] = data.decode("utf-8-sig")
            else:
                parsed[kind] = {"bytes": data, "path": name}
    except (ValueError, RecursionError) as problem:
        fault = (
            f"Expected text in UTF-8 and objects in JSON but got {' '.join(str(problem).split())[:120]} in {key} of "
        )
        return BadPair(f"{Path(file).stem}-{key}".replace("/", "-"), "", file, f"{fault}{file}. Remedy: correct it.")
    return parsed
