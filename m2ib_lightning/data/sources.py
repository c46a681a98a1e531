"""What a `source` written as one string means."""

from __future__ import annotations

import glob
from pathlib import Path

from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.folders import CaptionFolder
from m2ib_lightning.data.huggingface import HuggingFace
from m2ib_lightning.data.pairs import PairSource
from m2ib_lightning.data.shards import SHARDS, Shards
from m2ib_lightning.data.tables import TABLES, Table

HUB = "hf:"


def open_source(source: str | Path, columns: Columns = Columns()) -> PairSource:  # noqa: B008, a NamedTuple
    """The pairs of a file, of several files, of a folder or of the hub; nothing is read yet.

    - A CSV, TSV or JSON Lines file; image paths are relative to its own folder.
    - Parquet files and WebDataset tar shards, with wild cards: "shards/*.tar".
    - A folder with such a table named metadata.csv, .tsv or .jsonl (the imagefolder convention of Hugging Face), with
      Parquet files or tar shards, or of images, each with its caption beside it in a .txt file of the same name.
    - "hf:NAME" or "hf:NAME:SPLIT", a data set of the Hugging Face hub.

    Args:
        source: The table, folder or shards to open.
        columns: Which column holds what; for those that have columns.

    Raises:
        ValueError: There is nothing of that name, or it is of no known kind.
    """
    name = str(source)
    if name.startswith(HUB):
        hub, _, split = name.removeprefix(HUB).partition(":")
        return HuggingFace(hub, split or None, columns=columns)
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, columns)
    suffix = path.suffix.lower()
    if suffix in SHARDS:
        return Shards(name, columns)
    if suffix not in TABLES and path.is_file():
        raise ValueError(
            f"Expected a file of pairs ({', '.join((*TABLES, *SHARDS))}) or a folder but got {path}. "
            "Remedy: convert it, or name the class that reads it as `dataset`."
        )
    if suffix not in TABLES:
        raise ValueError(
            f"Expected a file or folder of pairs but got {path}, which does not exist. "
            f"Remedy: correct the path, or write {HUB}{name} for a data set of the hub."
        )
    return Table(path, columns)


def _open_folder(folder: Path, columns: Columns) -> PairSource:
    for suffix in TABLES:
        table = folder / f"metadata{suffix}"
        if table.is_file():
            return Table(table, columns)
    for suffix in SHARDS:
        if any(folder.glob(f"*{suffix}")):
            return Shards(glob.escape(str(folder)) + f"/*{suffix}", columns)
    if any(folder.glob("*/*.parquet")):
        return HuggingFace(str(folder), columns=columns)
    return CaptionFolder(folder)
