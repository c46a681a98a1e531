"""Gathers finished pairs and writes them in parts of a useful size, while the next ones are computed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.store.parts import Provenance, naming, open_part, write_table
from m2ib_lightning.store.reader import AttributionStore
from m2ib_lightning.store.rows import Precision, to_table
from m2ib_lightning.types import BadPair

if TYPE_CHECKING:
    import pyarrow as pa


class PartWriter:
    """Appends to a store in parts of `pairs` pairs, or of what there is after `seconds`.

    A part is written by a thread of its own; `flush` waits for it. A process that is killed loses what it has not
    written, no more than that. Small parts lose less, large ones are read faster: a million pairs are 2,000 parts of
    512.

    Args:
        store: The store that parts are appended to.
        provenance: What the results are made with.
        rank: The rank of this process.
        precision: The precision that maps are stored in.
        pairs: A part is written when so many are there.
        seconds: Or when the last part was begun so long ago.
    """

    def __init__(
        self,
        store: AttributionStore,
        provenance: Provenance,
        rank: int = 0,
        precision: Precision = "float32",
        pairs: int = 512,
        seconds: float = 30.0,
    ) -> None:
        self.store, self.provenance, self.rank, self.precision = store, provenance, rank, precision
        self.pairs, self.seconds = pairs, seconds
        # As tables: thousands of small arrays between a batch's large ones would cut the memory into pieces.
        self.waiting: list[pa.Table] = []
        self._thread = ThreadPoolExecutor(1, "part-writer")
        self._writing: Future[None] | None = None
        self._count = 0  # of the tables that are being written; they wait until they are
        self._path = store.next_part(rank)
        self._begun = time.monotonic()

    def add(self, results: Sequence[Attribution | BadPair], fingerprints: Mapping[str, str] | None = None) -> None:
        """Take results; begin to write a part if it is time to.

        Args:
            results: The results, in any order.
            fingerprints: The fingerprints of their images, by the pair's id.

        Raises:
            StoreError: The part before could not be written. The results wait for the next try.
        """
        self.waiting.append(to_table(results, self.precision, fingerprints))
        if self._writing is not None and self._writing.done():
            self._end()
        if sum(map(len, self.waiting[self._count :])) >= self.pairs or time.monotonic() - self._begun >= self.seconds:
            self._begin()

    def flush(self) -> None:
        """Write what waits. An interrupted call may be made again: no pair is lost and none is written twice.

        Raises:
            StoreError: The part cannot be written. The results wait for the next try.
        """
        self._begin()
        self._end()

    def _begin(self) -> None:
        self._end()
        self._count, self._begun = len(self.waiting), time.monotonic()
        if self.waiting:
            self._writing = self._thread.submit(self._write, list(self.waiting))

    def _end(self) -> None:
        """Wait for the part that is being written."""
        writing, count = self._writing, self._count
        if writing is None:
            return
        try:
            writing.result()
        finally:
            if writing.done():  # not where the wait itself was interrupted
                left = self.waiting[count:] if writing.exception() is None else self.waiting
                self._writing, self._count, self.waiting = None, 0, left

    def _write(self, tables: list[pa.Table]) -> None:
        import pyarrow as pa

        rows = pa.concat_tables(tables)
        if self._path.exists() and not self._is_mine(rows):
            self._path = self.store.next_part(self.rank)
        if not self._path.exists():
            write_table(self._path, rows, self.provenance)
        self._path = self.store.next_part(self.rank)

    def _is_mine(self, rows: pa.Table) -> bool:
        """Whether the part under the next name is these rows, from a call that was interrupted after it wrote them."""
        with naming(self._path):
            there = open_part(self._path).read(columns=["id"])
        return there["id"].to_pylist() == rows["id"].to_pylist()
