"""What an offline W&B run holds, read from its file with W&B's own record types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import wandb
from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7
WHOLE, FIRST, LAST = 1, 2, 4


class OfflineRun(NamedTuple):
    """`config` as nested values, `rows` of the history in order, and the folder of the run's files."""

    config: dict[str, Any]
    rows: list[dict[str, Any]]
    files: Path


def read_run(folder: Path) -> OfflineRun:
    """The one offline run below a folder, all of it on the disk."""
    wandb.teardown()
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    config: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for record in records(path):
        updates = [*record.run.config.update, *record.config.update]
        config |= {item.key: json.loads(item.value_json) for item in updates if item.key}
        if record.HasField("history"):
            rows.append({})
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                inside = rows[-1].setdefault(outer[0], {}) if outer else rows[-1]
                inside[last] = json.loads(item.value_json)
    return OfflineRun(config, rows, path.parent / "files")


def records(path: Path) -> Iterator[Record]:
    """LevelDB's log format: blocks of 32 KiB; of each piece a checksum, its length and whether it is a whole record."""
    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece = data[at + HEADER : at + HEADER + length]
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts)
        at += HEADER + length
