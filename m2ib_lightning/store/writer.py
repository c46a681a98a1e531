"""Gathers finished pairs and writes them in parts of a useful size."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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

    A process that is killed loses what it has not written, no more than that. Small parts lose less, large ones are
    read faster: a million pairs are 2,000 parts of 512.

    Args:
        store: Where to.
        provenance: What the results are made with.
        rank: Of this process.
        precision: Of the maps.
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
        self._path = store.next_part(rank)
        self._begun = time.monotonic()

    def add(self, results: Sequence[Attribution | BadPair], fingerprints: Mapping[str, str] | None = None) -> None:
        """Take results; write a part if it is time to.

        Args:
            results: In any order.
            fingerprints: Of their images, by the pair's id.

        Raises:
            StoreError: The part cannot be written. The results wait for the next try.
        """
        self.waiting.append(to_table(results, self.precision, fingerprints))
        if sum(map(len, self.waiting)) >= self.pairs or time.monotonic() - self._begun >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits. An interrupted call may be made again: no pair is lost and none is written twice.

        Raises:
            StoreError: The part cannot be written. The results wait for the next try.
        """
        import pyarrow as pa

        if self.waiting:
            rows = pa.concat_tables(self.waiting)
            if self._path.exists() and not self._is_mine(rows):
                self._path = self.store.next_part(self.rank)
            if not self._path.exists():
                write_table(self._path, rows, self.provenance)
        self.waiting = []
        self._path = self.store.next_part(self.rank)
        self._begun = time.monotonic()

    def _is_mine(self, rows: pa.Table) -> bool:
        """Whether the part under the next name is these rows, from a call that was interrupted after it wrote them."""
        with naming(self._path):
            there = open_part(self._path).read(columns=["id"])
        return there["id"].to_pylist() == rows["id"].to_pylist()
