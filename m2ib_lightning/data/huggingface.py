"""Pairs that Hugging Face `datasets` reads: data sets of the hub, or of a folder that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.images import image_name
from m2ib_lightning.data.pairs import PairReference, PairSource


class HuggingFace(PairSource):
    """A data set that `datasets.load_dataset` knows, streamed: nothing is downloaded or unpacked beforehand.

    Images may be in the data set or paths. Of WebDataset shards a pair is the image, `.txt` and `.json` files of one
    key, and its id is "shard-key". Several processes each read their own files where there are enough files and ids;
    else all read all of them and keep their own pairs.

    Args:
        path: A name on the hub, or a folder.
        split: Which part; need not be given where there is one.
        subset: The configuration of the data set, where it has several.
        columns: Which column holds what.
        streaming: Off to have it downloaded and kept in the cache of `datasets`.
    """

    holds_images = True

    def __init__(
        self,
        path: str,
        split: str | None = None,
        subset: str | None = None,
        columns: Columns = Columns(),  # noqa: B008, a NamedTuple
        streaming: bool = True,
    ) -> None:
        self.path, self.split, self.subset, self.columns = path, split, subset, columns
        self.streaming = streaming
        self._opened: tuple[Any, Columns] | None = None

    def references(self) -> Iterator[PairReference]:
        """The pairs in the order of the files.

        Raises:
            ValueError: It cannot be opened or read, or a column is missing.
        """
        return (pair for _, pair in self.rows())

    def rows(self) -> Iterator[tuple[dict[str, Any], PairReference]]:
        """Each row as it is, and the pair that its columns make.

        Raises:
            ValueError: See `references`.
        """
        data, columns = self._open()
        for number, row in enumerate(_rows(data, self.path), 1):
            shard, key = row.get("__url__"), row.get("__key__")
            place = f"row {number} of {self.path}" if shard is None else f"{key} of {shard}"
            pair = columns.reference(row, "", place)
            if shard is not None:
                pair = pair._replace(image=_inside(shard, pair.image))
                if not columns.id:
                    pair = pair._replace(id=f"{Path(shard).stem}-{key}".replace("/", "-"))
            yield row, pair

    def count(self) -> int | None:
        """The number of rows where it is written somewhere."""
        data, _ = self._open()
        if not self.streaming:
            return len(data)
        known = (data.info.splits or {}).get(data.split and str(data.split))
        return known.num_examples or None if known else None

    def part(self, index: int, count: int) -> PairSource | None:
        """Its own files for each of `count` processes, where ids do not depend on the other files."""
        data, columns = self._open()
        if not columns.id or not self.streaming or data.num_shards < count:
            return None
        part = HuggingFace(self.path, self.split, self.subset, self.columns)
        part._opened = (data.shard(count, index), columns)
        return part

    def _open(self) -> tuple[Any, Columns]:
        """The data set with images as files, not yet decoded, and its columns."""
        if self._opened is None:
            data = self._load()
            names = list(data.features or next(iter(data)))
            for name, feature in (data.features or {}).items():
                if type(feature).__name__ == "Image":
                    data = data.cast_column(name, type(feature)(decode=False))
            self._opened = data, self.columns.found(names, self.path)
        return self._opened

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        try:
            data: Any = datasets.load_dataset(self.path, self.subset, split=None, streaming=self.streaming)
        except Exception as problem:  # of the hub, of the network, of files
            raise ValueError(f"Expected a data set but got {self.path}: {_line(problem)}. {REMEDY}") from problem
        split = self.split or (next(iter(data)) if len(data) == 1 else None)
        if split not in data:
            raise ValueError(
                f"Expected a split of {self.path} ({', '.join(data)}) but got {split}. "
                f"Remedy: hf:{self.path}:{next(iter(data))}, or the `split` of HuggingFace."
            )
        return data[split]


REMEDY = "Remedy: correct the name; hub names need the network unless they are in the cache of `datasets`."


def _rows(data: Any, name: str) -> Iterator[dict[str, Any]]:
    """All rows, in order, and what goes wrong in reading them said in one line.

    Not `iter(data)`, which in a worker process of torch gives a part of the rows only.
    """
    batches = data.iter(batch_size=16)
    while True:
        try:
            batch = next(batches, None)
        except Exception as problem:  # of the network, of a file that is cut short
            raise ValueError(f"Expected readable rows in {name} but got: {_line(problem)}. {REMEDY}") from problem
        if batch is None:
            return
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))


def _inside(shard: str, image: Any) -> Any:
    """An image with the shard that it is in as part of its name."""
    return image._replace(name=f"{shard}/{image_name(image)}") if hasattr(image, "data") else image


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}".rstrip(".")
