"""Results of a data set: a folder of Parquet parts, appended as pairs finish and readable without this package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2ib_lightning.attribution import Attribution

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def _schema() -> pa.Schema:
    import pyarrow as pa

    values = pa.list_(pa.float32())
    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("text", pa.string()),
            ("score", pa.float32()),
            ("image_score", pa.float32()),
            ("text_score", pa.float32()),
            ("image_map", values),
            ("grid", pa.list_(pa.int32())),
            ("view", pa.list_(pa.float64())),
            ("text_map", values),
            ("tokens", pa.list_(pa.string())),
            ("special", pa.list_(pa.bool_())),
            ("spans", pa.list_(pa.list_(pa.int32()))),
            ("truncated", pa.bool_()),
            ("unit", pa.string()),
            ("steps", pa.int32()),
            ("stop_reason", pa.string()),
            ("history", pa.map_(pa.string(), values)),
            ("settings", pa.string()),
        ]
    )


class AttributionStore:
    """Attributions in a folder of Parquet parts.

    Args:
        folder: Made when something is appended.

    Example:
        for attribution in AttributionStore("outputs/attributions"):
            print(attribution.id, attribution.score)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def parts(self) -> list[Path]:
        """The finished parts, in the order they were written."""
        return sorted(self.folder.glob("part-*.parquet"))

    def append(self, attributions: Iterable[Attribution]) -> Path:
        """Write a further part, whole or not at all: it gets its name when all of it is on disk.

        Returns:
            Its path.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder.mkdir(parents=True, exist_ok=True)
        last = int(self.parts[-1].stem.split("-")[1]) if self.parts else -1
        path = self.folder / f"part-{last + 1:06d}.parquet"
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        table = pa.Table.from_pylist([_row(a) for a in attributions], schema=_schema())
        try:
            pq.write_table(table, unfinished, compression="zstd")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    def __iter__(self) -> Iterator[Attribution]:
        import pyarrow.parquet as pq

        for part in self.parts:
            for batch in pq.ParquetFile(part).iter_batches(batch_size=256):
                yield from map(_attribution, batch.to_pylist())

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        return sum(pq.ParquetFile(part).metadata.num_rows for part in self.parts)

    def __getitem__(self, id: str) -> Attribution:
        """The attribution of a pair.

        Raises:
            KeyError: There is none of that id.
        """
        import pyarrow.parquet as pq

        for part in self.parts:
            rows = pq.read_table(part, filters=[("id", "==", id)]).to_pylist()
            if rows:
                return _attribution(rows[0])
        raise KeyError(f"Expected an id of the {len(self)} pairs in {self.folder} but got {id!r}.")

    def to_pandas(self) -> pd.DataFrame:
        """Everything as a data frame, a row per pair, maps flattened row by row with their `grid` beside them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.parts:
            frame: pd.DataFrame = _schema().empty_table().to_pandas()
            return frame
        frame = pa.concat_tables([pq.read_table(part) for part in self.parts]).to_pandas()
        return frame


def _row(a: Attribution) -> dict[str, Any]:
    return {
        "id": a.id,
        "source": a.source,
        "text": a.text,
        "score": a.score,
        "image_score": a.image_score,
        "text_score": a.text_score,
        "image_map": None if a.image_map is None else a.image_map.ravel(),
        "grid": None if a.image_map is None else a.image_map.shape,
        "view": a.view,
        "text_map": a.text_map,
        "tokens": a.tokens,
        "special": a.special,
        "spans": a.spans,
        "truncated": a.truncated,
        "unit": a.unit,
        "steps": a.steps,
        "stop_reason": a.stop_reason,
        "history": list(a.history.items()),
        "settings": json.dumps(a.settings),
    }


def _attribution(row: dict[str, Any]) -> Attribution:
    image_map, grid, text_map = row.pop("image_map"), row.pop("grid"), row.pop("text_map")
    return Attribution(
        image_map=None if image_map is None else np.array(image_map, dtype=np.float32).reshape(grid),
        text_map=None if text_map is None else np.array(text_map, dtype=np.float32),
        special=np.array(row.pop("special"), dtype=bool),
        spans=[(start, end) for start, end in row.pop("spans")],
        view=tuple(row.pop("view")),
        history={name: np.array(values, dtype=np.float32) for name, values in row.pop("history")},
        settings=json.loads(row.pop("settings")),
        **row,
    )
