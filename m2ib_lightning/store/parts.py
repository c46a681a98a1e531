"""One part of a store: a Parquet file with a row per pair, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.types import BadPair

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCHEMA = 2
"""Version of the columns."""

ROWS = 64
"""Pairs that are compressed together, and so read together when one is looked up."""

Precision = Literal["float32", "float16"]
"""Of the maps. float16 halves their size; its error is 0.05 % of a value, more below 6e-5, and it ends at 65504."""


class StoreError(OSError):
    """A folder of results cannot be read or written. The message names the file or folder and the remedy."""


class Provenance(NamedTuple):
    """What the results of a part were made with; kept in the part's metadata.

    Attributes:
        model: Name of the backbone.
        weights: Hash of its weights.
        configuration: Everything else that changes results.
        version: Of this package.
    """

    model: str
    weights: str
    configuration: dict[str, Any]
    version: str = ""


def columns(precision: Precision = "float32") -> pa.Schema:
    """The columns of a part. A bad pair has an id, a source, a text and an error, and null everywhere else."""
    import pyarrow as pa

    maps = pa.list_(pa.float16() if precision == "float16" else pa.float32())
    values = pa.list_(pa.float32())
    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("text", pa.string()),
            ("error", pa.string()),
            ("score", pa.float32()),
            ("image_score", pa.float32()),
            ("text_score", pa.float32()),
            ("image_map", maps),
            ("grid", pa.list_(pa.int32())),
            ("view", pa.list_(pa.float64())),
            ("text_map", maps),
            ("tokens", pa.list_(pa.string())),
            ("special", pa.list_(pa.bool_())),
            ("spans", pa.list_(pa.list_(pa.int32()))),
            ("truncated", pa.bool_()),
            ("unit", pa.string()),
            ("steps", pa.int32()),
            ("stop_reason", pa.string()),
            # No Arrow map: `datasets` cannot read one.
            ("history", pa.list_(pa.struct([("name", pa.string()), ("values", values)]))),
            ("metrics", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
            ("settings", pa.string()),
        ]
    )


def write_part(
    path: Path,
    results: Sequence[Attribution | BadPair],
    provenance: Provenance,
    precision: Precision = "float32",
) -> None:
    """Write a part: beside its place first, and under its name when all of it is on disk.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    write_table(path, to_table(results, precision), provenance)


def to_table(results: Sequence[Attribution | BadPair], precision: Precision = "float32") -> pa.Table:
    """Results as rows."""
    import pyarrow as pa

    rows = [_bad_row(r) if isinstance(r, BadPair) else _row(r, precision) for r in results]
    return pa.Table.from_pylist(rows, schema=columns(precision))


def write_table(path: Path, table: pa.Table, provenance: Provenance) -> None:
    """The same as `write_part` of rows that are a table already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from m2ib_lightning import __version__

    made = provenance._replace(version=provenance.version or __version__)
    metadata = {f"m2ib.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in made._asdict().items()}
    whole = pa.BufferOutputStream()
    table = table.replace_schema_metadata(metadata | {"m2ib.schema": str(SCHEMA)})
    pq.write_table(table, whole, compression="zstd", row_group_size=ROWS, write_page_checksum=True)
    unfinished = path.with_name(f".{path.name}.unfinished")  # hidden, so that nobody reads it with the parts
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(memoryview(whole.getvalue()))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as problem:
        unfinished.unlink(missing_ok=True)
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"Expected room for a part in {path.parent} but the disk is full. "
            "Remedy: make room; the same command goes on from the parts that are there."
            if full
            else f"Expected to write {path} but got {problem.strerror or problem}. Remedy: make {path.parent} writable."
        ) from problem


def open_part(path: Path) -> pq.ParquetFile:
    """A part, its columns unread.

    Raises:
        StoreError: It is damaged, foreign, or of a newer version of this package.
    """
    import pyarrow.parquet as pq

    with naming(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        metadata = file.schema_arrow.metadata or {}
    version = int(metadata.get(b"m2ib.schema", 0))
    if not version:
        raise StoreError(
            f"Expected parts of an attribution store but {path} is none. Remedy: move that file out of the folder."
        )
    if version > SCHEMA:
        raise StoreError(
            f"Expected columns of version {SCHEMA} but {path} has {version}. Remedy: upgrade m2ib_lightning."
        )
    return file


def provenance_of(file: pq.ParquetFile) -> Provenance:
    """What the results of a part were made with."""
    metadata = {name.decode(): value.decode() for name, value in file.schema_arrow.metadata.items()}
    model, weights, configuration, version = (metadata[f"m2ib.{name}"] for name in Provenance._fields)
    return Provenance(model, weights, json.loads(configuration), version)


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
    except (pa.ArrowException, OSError) as problem:
        reason = str(problem).splitlines()[0][:120].rstrip(". ")
        raise StoreError(
            f"Expected a whole part but {path} is damaged ({reason}). "
            "Remedy: remove that file and run the same command again; all else stays and only its pairs are redone."
        ) from problem


def _row(a: Attribution, precision: Precision) -> dict[str, Any]:
    def flat(values: Any) -> Any:
        return None if values is None else values.ravel().astype(precision)

    return {
        "id": a.id,
        "source": a.source,
        "text": a.text,
        "score": a.score,
        "image_score": a.image_score,
        "text_score": a.text_score,
        "image_map": flat(a.image_map),
        "grid": None if a.image_map is None else a.image_map.shape,
        "view": a.view,
        "text_map": flat(a.text_map),
        "tokens": a.tokens,
        "special": a.special,
        "spans": a.spans,
        "truncated": a.truncated,
        "unit": a.unit,
        "steps": a.steps,
        "stop_reason": a.stop_reason,
        "history": [{"name": name, "values": values} for name, values in a.history.items()],
        "metrics": [{"name": name, "value": value} for name, value in a.metrics.items()],
        "settings": json.dumps(a.settings),
    }


def _bad_row(pair: BadPair) -> dict[str, Any]:
    return pair._asdict()


def to_attribution(row: dict[str, Any]) -> Attribution:
    """The attribution of a row without an error."""
    row = {name: value for name, value in row.items() if name != "error"}
    image_map, grid, text_map = row.pop("image_map"), row.pop("grid"), row.pop("text_map")
    return Attribution(
        image_map=None if image_map is None else np.array(image_map, dtype=np.float32).reshape(grid),
        text_map=None if text_map is None else np.array(text_map, dtype=np.float32),
        special=np.array(row.pop("special"), dtype=bool),
        spans=[(start, end) for start, end in row.pop("spans")],
        view=tuple(row.pop("view")),
        history={h["name"]: np.array(h["values"], dtype=np.float32) for h in row.pop("history")},
        metrics={m["name"]: m["value"] for m in row.pop("metrics", None) or ()},  # parts of version 1 have none
        settings=json.loads(row.pop("settings")),
        **row,
    )
