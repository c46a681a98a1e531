"""Reading a folder of parts, and appending to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.store.parts import (
    Precision,
    Provenance,
    columns,
    naming,
    open_part,
    provenance_of,
    to_attribution,
    write_part,
    write_table,
)
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
    Maps are flattened row by row, their shape is in the column `grid`.

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
        self._places: dict[str, tuple[Path, int]] = {}
        self._placed: set[Path] = set()

    @property
    def parts(self) -> list[Path]:
        """The finished parts: of each process in the order they were written."""
        return sorted(self.folder.glob("part-*.parquet"))

    @property
    def provenance(self) -> Provenance | None:
        """What the first part was made with; None if there is no part."""
        return provenance_of(open_part(self.parts[0])) if self.parts else None

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
            precision: Of the maps.

        Returns:
            Its path.
        """
        results = list(results)
        if provenance is None:
            settings = next((r.settings for r in results if isinstance(r, Attribution)), {})
            provenance = Provenance(str(settings.get("backbone", "")), str(settings.get("weights", "")), settings)
        path = self.next_part()
        write_part(path, results, provenance, precision)
        return path

    def next_part(self, rank: int = 0) -> Path:
        """Where the next part of a process goes. Processes do not share names, so none waits for another."""
        mine = sorted(self.folder.glob(f"part-{rank:05d}-*.parquet"))
        number = int(mine[-1].stem.rpartition("-")[2]) + 1 if mine else 0
        return self.folder / f"part-{rank:05d}-{number:06d}.parquet"

    def __iter__(self) -> Iterator[Attribution]:
        for part in self.parts:
            with naming(part):
                for batch in open_part(part).iter_batches(batch_size=256):
                    yield from (to_attribution(row) for row in batch.to_pylist() if row["error"] is None)

    def __len__(self) -> int:
        """The number of attributions, bad pairs not counted."""
        return sum(open_part(part).metadata.num_rows - bad for part, bad in self._bad_counts())

    def __getitem__(self, id: str) -> Attribution:
        """The attribution of a pair. The first look-up reads the ids of all parts, no map; later ones read one part.

        Raises:
            KeyError: There is none of that id, or the pair could not be explained.
        """
        if id not in self._places:
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
        for part, bad in self._bad_counts():
            if bad:
                for row in self._table(part, list(BadPair._fields)).to_pylist():
                    if row["error"] is not None:
                        yield BadPair(**row)

    def ids(self) -> set[str]:
        """The ids of all rows, good and bad."""
        return {id for part in self.parts for id in self._table(part, ["id"])["id"].to_pylist()}

    def stop_reasons(self) -> Counter[str]:
        """How many attributions ended for which reason; "" where nothing is fitted."""
        return Counter(
            reason
            for part in self.parts
            for reason in self._table(part, ["stop_reason"])["stop_reason"].to_pylist()
            if reason is not None
        )

    def filter(self, expression: pc.Expression) -> Iterator[Attribution]:
        """The attributions for which an expression over the columns is true.

        Args:
            expression: For example `(pyarrow.compute.field("score") > 0.3) & (field("stop_reason") == "converged")`.
        """
        import pyarrow.parquet as pq

        for part in self.parts:
            open_part(part)
            with naming(part):
                rows = pq.read_table(part, filters=expression).to_pylist()
            yield from (to_attribution(row) for row in rows if row["error"] is None)

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

        tables = [self._table(part) for part in self.parts] or [columns().empty_table()]
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
        for part, bad in self._bad_counts():
            if not bad:
                continue
            table, made = self._table(part), provenance_of(open_part(part))
            good = table.filter(table["error"].is_null())
            if good.num_rows:
                write_table(part, good, made)
            else:
                part.unlink()
        self._places, self._placed = {}, set()

    def drop_unfinished(self) -> None:
        """Remove what a killed process left of a part that it was writing. Nobody may be writing."""
        for file in self.folder.glob(".part-*.unfinished"):
            file.unlink(missing_ok=True)

    def _table(self, part: Path, names: list[str] | None = None) -> pa.Table:
        with naming(part):
            return open_part(part).read(columns=names)

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
        """Where the rows are of the parts that have come since the last look-up."""
        for part in self.parts:
            if part not in self._placed:
                ids = self._table(part, ["id"])["id"].to_pylist()
                self._places |= {id: (part, row) for row, id in enumerate(ids)}
                self._placed.add(part)

    def _bad_counts(self) -> Iterator[tuple[Path, int]]:
        """Each part with its number of bad pairs, which its footer tells."""
        at = columns().get_field_index("error")
        for part in self.parts:
            footer = open_part(part).metadata
            # A flat column before any nested one: its place in the file is its place in the schema.
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            yield part, sum(group.num_rows - group.column(at).statistics.null_count for group in groups)
