"""One part of a store: a Parquet file with a row per pair, written whole or not at all."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from m2ib_lightning.errors import StoreError
from m2ib_lightning.files import replacing
from m2ib_lightning.store.rows import ADDED, SCHEMA, columns
from m2ib_lightning.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 64
"""Pairs that are compressed together, and so read together when one is looked up."""


class Provenance(NamedTuple):
    """What the results of a part were made with; kept in the part's metadata.

    Attributes:
        model: Name of the backbone.
        weights: Hash of its weights.
        configuration: Everything else that changes results.
        version: The version of this package that made them.
    """

    model: str
    weights: str
    configuration: dict[str, Any]
    version: str = ""


def write_table(path: Path, table: pa.Table, provenance: Provenance) -> None:
    """Write rows as a part: beside its place first, and under its name when all of it is on disk.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = provenance._replace(version=provenance.version or __version__)
    metadata = {f"m2ib.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in made._asdict().items()}
    table = table.replace_schema_metadata(metadata | {"m2ib.schema": str(SCHEMA)})
    whole = pa.BufferOutputStream()
    pq.write_table(table, whole, compression="zstd", row_group_size=ROWS, write_page_checksum=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(memoryview(whole.getvalue()))
    except OSError as problem:
        raise unwritten(path, "a part", "the same command goes on from the parts that are there", problem) from problem


def unwritten(path: Path, what: str, then: str, problem: OSError) -> StoreError:
    """What to say of a file that cannot be written.

    Args:
        path: The file that cannot be written.
        what: What it would be, such as "a part".
        then: What goes on when there is room.
        problem: Why it cannot be written.
    """
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"Expected room for {what} in {path.parent} but the disk is full. Remedy: make room; {then}.")
    return StoreError(
        f"Expected to write {path} but got {problem.strerror or problem}. Remedy: make {path.parent} writable."
    )


def open_part(path: Path) -> pq.ParquetFile:
    """A part, its columns unread; whatever is read from it is held against the checksum of its page.

    Raises:
        StoreError: It is damaged, foreign, or of a newer version of this package.
    """
    import pyarrow.parquet as pq

    with naming(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        there = file.schema_arrow
    version = (there.metadata or {}).get(b"m2ib.schema", b"").decode("utf-8", "replace")
    if not version:
        raise _foreign(path, "parts of an attribution store", "is none")
    if not re.fullmatch(r"[1-9]\d{0,8}", version):
        raise _foreign(path, "the number of a version", f"says {version[:40]!r}")
    if int(version) > SCHEMA:
        raise StoreError(
            f"Expected columns of version {SCHEMA} but {path} has {version}. Remedy: upgrade m2ib_lightning."
        )
    kinds = {field.name: field.type.id for field in there}
    wrong = [c.name for c in columns() if kinds.get(c.name) != c.type.id and (c.name in kinds or c.name not in ADDED)]
    if wrong:
        raise _foreign(path, "the columns of an attribution store", f"has others for {', '.join(wrong[:4])}")
    return file


def provenance_of(path: Path) -> Provenance:
    """What the results of a part were made with.

    Raises:
        StoreError: See `open_part`; or it does not say.
    """
    metadata = open_part(path).schema_arrow.metadata
    try:
        said = {name: metadata[f"m2ib.{name}".encode()].decode() for name in Provenance._fields}
        configuration = json.loads(said["configuration"])
    except KeyError as problem:
        raise _foreign(path, f"the metadata {problem.args[0].decode()!r}", "has none") from problem
    except (ValueError, RecursionError) as problem:
        raise _foreign(path, "a configuration as JSON in the metadata", "has another text") from problem
    if not isinstance(configuration, dict):
        raise _foreign(path, "a configuration in the metadata", f"has {configuration!r:.40}")
    return Provenance(**said | {"configuration": configuration})


def _foreign(path: Path, expected: str, found: str) -> StoreError:
    return StoreError(
        f"Expected {expected} but {path} {found}. "
        "Remedy: move that file out of the folder and run the same command again; all else stays."
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say which part it is that cannot be read.

    Raises:
        StoreError: It is damaged.
    """
    import pyarrow as pa

    try:
        yield
    except StoreError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as problem:
        reason = " ".join(str(problem).split())[:120].rstrip(". ")
        raise StoreError(
            f"Expected a whole part but {path} is damaged ({reason}). "
            "Remedy: remove that file and run the same command again; all else stays and only its pairs are redone."
        ) from problem
