"""Reading a folder of parts, and appending to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.store.parts import Provenance, naming, open_part, provenance_of, write_table
from m2ib_lightning.store.rows import Precision, columns, to_attribution, to_table
from m2ib_lightning.types import BadPair

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    from PIL import Image


class AttributionStore:
    """Attributions in a folder of Parquet parts, one row per pair. Pairs that could not be explained are in `errors`.

    The parts are `part-RANK-NUMBER.parquet`; without this package, `pandas.read_parquet(folder)`, DuckDB's
    `select * from 'folder/*.parquet'` and `datasets.load_dataset("parquet", data_files="folder/*.parquet")` read them.
    Maps are flattened row by row, their shape is in the column `grid`. An id counts once: where a part stands there
    under two names, the rows of the first are read, and `doubled` names the others.

    Args:
        folder: Made when something is appended.

    Raises:
        StoreError: Whatever reads or writes a part: it is damaged or foreign, or the disk is full.

    Example:
        store = AttributionStore("outputs/cats/attributions")
        for attribution in store:
            print(attribution.id, attribution.score)
        store["cat-7"], store.overlay("cat-7"), store.filter(pyarrow.compute.field("score") > 0.3), store.to_pandas()
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._forget()

    def __repr__(self) -> str:
        """The folder and how many attributions it holds."""
        return f"AttributionStore({str(self.folder)!r}: {len(self):,} attributions)"

    @property
    def parts(self) -> list[Path]:
        """The finished parts: of each process in the order they were written."""
        return sorted(self.folder.glob("part-*.parquet"))

    @property
    def provenance(self) -> Provenance | None:
        """What the first part was made with; None if there is no part."""
        return provenance_of(self.parts[0]) if self.parts else None

    def append(
        self,
        results: Iterable[Attribution | BadPair],
        provenance: Provenance | None = None,
        precision: Precision = "float32",
    ) -> Path:
        """Write a further part, whole or not at all.

        Args:
            results: One row each; an id that is there already is not looked for.
            provenance: What they were made with; by default as the first one's settings say.
            precision: The precision that maps are stored in.

        Returns:
            Its path.
        """
        results = list(results)
        if provenance is None:
            settings = next((r.settings for r in results if isinstance(r, Attribution)), {})
            provenance = Provenance(str(settings.get("backbone", "")), str(settings.get("weights", "")), settings)
        path = self.next_part()
        write_table(path, to_table(results, precision), provenance)
        return path

    def next_part(self, rank: int = 0) -> Path:
        """Where the next part of a process goes. Processes do not share names, so none waits for another."""
        mine = sorted(self.folder.glob(f"part-{rank:05d}-*.parquet"))
        number = int(mine[-1].stem.rpartition("-")[2]) + 1 if mine else 0
        return self.folder / f"part-{rank:05d}-{number:06d}.parquet"

    def __iter__(self) -> Iterator[Attribution]:
        import pyarrow as pa

        self._find_places()
        for part in self.parts:
            with naming(part):
                row = 0
                for batch in open_part(part).iter_batches(batch_size=256):
                    once = self._once(pa.Table.from_batches([batch]), part, row)
                    row += batch.num_rows
                    yield from (to_attribution(row) for row in once.to_pylist() if row["error"] is None)

    def __len__(self) -> int:
        """The number of attributions, bad pairs not counted."""
        self._find_places()
        return len(self._places) - len(self._bad)

    def __getitem__(self, id: str) -> Attribution:
        """The attribution of a pair. The first look-up reads the ids of all parts, no map; later ones read one part.

        Raises:
            KeyError: There is none of that id, or the pair could not be explained.
        """
        if id not in self._places or _mark(part := self._places[id][0]) != self._placed[part]:
            self._find_places()
        if id not in self._places:
            raise KeyError(f"Expected an id of the {len(self)} pairs in {self.folder} but got {id!r}.")
        part, row = self._places[id]
        found = self._row(part, row)
        if found["error"] is not None:
            raise KeyError(f"Expected an explained pair but {id!r} in {self.folder} is bad: {found['error']}")
        return to_attribution(found)

    def errors(self) -> Iterator[BadPair]:
        """The pairs that could not be read or explained, with the reason."""
        for part in self.parts:
            bad = self._rows(part, list(BadPair._fields))
            yield from (BadPair(**row) for row in bad.filter(bad["error"].is_valid()).to_pylist())

    def ids(self) -> set[str]:
        """The ids of all rows, good and bad."""
        self._find_places()
        return set(self._places)

    def inputs(self) -> dict[str, tuple[str, str]]:
        """The caption and the fingerprint of the image of each attribution, by its id; "" where there is none."""
        found: dict[str, tuple[str, str]] = {}
        for part in self.parts:
            there = set(open_part(part).schema_arrow.names)
            for row in self._rows(part, [n for n in ("id", "text", "error", "fingerprint") if n in there]).to_pylist():
                if row["error"] is None:
                    found[row["id"]] = row["text"], row.get("fingerprint") or ""
        return found

    def doubled(self) -> dict[str, int]:
        """The names of the parts with rows whose ids are in another part before them, with the number of those rows."""
        self._find_places()
        return {part.name: len(rows) for part, rows in self._again.items()}

    def stop_reasons(self) -> Counter[str]:
        """How many attributions ended for which reason; "" where nothing is fitted."""
        found = (self._rows(part, ["stop_reason", "error"]) for part in self.parts)
        return Counter(r for rows in found for r in rows.filter(rows["error"].is_null())["stop_reason"].to_pylist())

    def verdicts(self) -> Counter[str]:
        """How many attributions got which verdict; "" those of a version that had none."""
        found: Counter[str] = Counter()
        for part in self.parts:
            known = "verdict" in open_part(part).schema_arrow.names
            rows = self._rows(part, ["error", "verdict"] if known else ["error"])
            good = rows.filter(rows["error"].is_null())
            found.update(good["verdict"].to_pylist() if known else [""] * len(good))
        return found

    def check(self) -> None:
        """Read every part whole, each page against its checksum.

        Raises:
            StoreError: The first one that is damaged.
        """
        for part in self.parts:
            provenance_of(part)
            with naming(part):
                for _ in open_part(part).iter_batches(batch_size=256):
                    pass

    def filter(self, expression: pc.Expression) -> Iterator[Attribution]:
        """The attributions for which an expression over the columns is true.

        Args:
            expression: For example `(pyarrow.compute.field("score") > 0.3) & (field("stop_reason") == "converged")`.
        """
        import pyarrow.parquet as pq

        self._find_places()
        for part in self.parts:
            open_part(part)
            with naming(part):
                found = pq.read_table(part, filters=expression, page_checksum_verification=True).to_pylist()
                once = [row for row in found if self._places[row["id"]][0] == part]
                yield from (to_attribution(row) for row in once if row["error"] is None)

    def overlay(self, id: str, opacity: float = 0.9) -> Image.Image:
        """The picture of a pair, read again from where it came from, with its heat map over it.

        Raises:
            KeyError: There is no attribution of that id.
            ValueError: The picture was given in memory, cannot be read any more, or was not explained.
        """
        from m2ib_lightning.data.images import load_image

        attribution = self[id]
        if not attribution.source:
            raise ValueError(
                f"Expected a pair with a picture on disk but that of {id!r} was in memory. "
                "Remedy: store[id].overlay(picture)."
            )
        return attribution.overlay(load_image(attribution.source), opacity)

    def to_pandas(self) -> pd.DataFrame:
        """Everything as a data frame, a row per pair, bad ones included, with `error` set."""
        import pyarrow as pa

        tables = [self._rows(part) for part in self.parts] or [columns().empty_table()]
        frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        return frame

    def to_dataset(self) -> datasets.Dataset:
        """Everything as a Hugging Face data set, memory-mapped. Needs the package `datasets`.

        Raises:
            ValueError: There is nothing yet.
        """
        import datasets

        if not self.parts:
            raise ValueError(f"Expected attributions in {self.folder} but there are none. Remedy: run m2ib predict.")
        for part in self.parts:
            open_part(part)
        return datasets.Dataset.from_parquet([str(part) for part in self.parts])

    def drop_errors(self) -> None:
        """Take the bad pairs out, so that they are tried again. A part is replaced whole or stays as it was."""
        self._find_places()
        self.drop(set(self._bad))

    def drop(self, ids: Container[str]) -> None:
        """Take pairs out, so that they are explained again. A part is replaced whole or stays as it was.

        Args:
            ids: Of the pairs; those that are not there are passed over.
        """
        for part in self.parts:
            rows = self._table(part)
            kept = [id not in ids for id in rows["id"].to_pylist()]
            if not any(kept):
                part.unlink()
            elif not all(kept):
                write_table(part, rows.filter(kept), provenance_of(part))

    def _table(self, part: Path, names: list[str] | None = None) -> pa.Table:
        with naming(part):
            return open_part(part).read(columns=names)

    def _rows(self, part: Path, names: list[str] | None = None) -> pa.Table:
        """The rows of a part, without those of pairs that are in a part before it."""
        self._find_places()
        return self._once(self._table(part, names), part)

    def _once(self, rows: pa.Table, part: Path, start: int = 0) -> pa.Table:
        """Rows of a part, of which the first is the row `start`, without those that `doubled` counts."""
        again = self._again.get(part)
        return rows if not again else rows.filter([start + i not in again for i in range(len(rows))])

    def _row(self, part: Path, row: int) -> dict[str, Any]:
        """One row, of which only the row group is read."""
        file, group = open_part(part), 0
        with naming(part):
            while row >= file.metadata.row_group(group).num_rows:
                row -= file.metadata.row_group(group).num_rows
                group += 1
            found: dict[str, Any] = file.read_row_group(group).slice(row, 1).to_pylist()[0]
        return found

    def _find_places(self) -> None:
        """Where the rows are of the parts that have come since the last look-up; of all parts if one was replaced."""
        parts = {part: _mark(part) for part in self.parts}
        if not self._placed.items() <= parts.items():
            self._forget()
        for part, mark in parts.items():
            if part in self._placed:
                continue
            rows = self._table(part, ["id", "error"])
            for row, (id, good) in enumerate(
                zip(rows["id"].to_pylist(), rows["error"].is_null().to_pylist(), strict=True)
            ):
                if self._places.setdefault(id, (part, row)) != (part, row):
                    self._again.setdefault(part, set()).add(row)
                elif not good:
                    self._bad.add(id)
            self._placed[part] = mark

    def _forget(self) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        self._placed: dict[Path, tuple[int, int] | None] = {}
        self._bad: set[str] = set()
        self._again: dict[Path, set[int]] = {}


def _mark(part: Path) -> tuple[int, int] | None:
    """Changes when a part is replaced by another of its name; None where it is gone."""
    try:
        found = part.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
