"""What a row of a store holds, and how a result becomes one and comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.parts import Phrase, Region
from m2ib_lightning.types import BadPair

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 4
"""Version of the columns."""

ADDED = ("metrics", "fingerprint", "image_match", "text_match", "verdict", "phrases", "regions")
"""Columns that parts of earlier versions lack."""

Precision = Literal["float32", "float16"]
"""Of the maps. float16 halves their size; its error is 0.05 % of a value, more below 6e-5, and it ends at 65504."""


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
            ("image_match", pa.float32()),
            ("text_match", pa.float32()),
            ("verdict", pa.string()),
            ("unit", pa.string()),
            ("steps", pa.int32()),
            ("stop_reason", pa.string()),
            # No Arrow map: `datasets` cannot read one.
            ("history", pa.list_(pa.struct([("name", pa.string()), ("values", values)]))),
            ("metrics", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
            (
                "phrases",
                pa.list_(
                    pa.struct(
                        [
                            ("text", pa.string()),
                            ("span", pa.list_(pa.int32())),
                            ("effect", pa.float32()),
                            ("grid", pa.list_(pa.int32())),
                            ("values", values),
                            ("verdict", pa.string()),
                        ]
                    )
                ),
            ),
            (
                "regions",
                pa.list_(
                    pa.struct(
                        [
                            ("box", pa.list_(pa.float64())),
                            ("effect", pa.float32()),
                            ("values", values),
                        ]
                    )
                ),
            ),
            ("settings", pa.string()),
            ("fingerprint", pa.string()),
        ]
    )


def to_table(
    results: Sequence[Attribution | BadPair],
    precision: Precision = "float32",
    fingerprints: Mapping[str, str] | None = None,
) -> pa.Table:
    """The rows of results, as a table of Arrow.

    Args:
        results: The results, each of which becomes a row.
        precision: The precision that maps are stored in.
        fingerprints: The fingerprints of the images that they were made from, by the pair's id; see `Pair.fingerprint`.
    """
    import pyarrow as pa

    known = fingerprints or {}
    rows = [r._asdict() if isinstance(r, BadPair) else _row(r, precision) for r in results]
    rows = [row | {"fingerprint": known.get(row["id"])} for row in rows]
    return pa.Table.from_pylist(rows, schema=columns(precision))


def _row(a: Attribution, precision: Precision) -> dict[str, Any]:
    def flat(values: Any) -> Any:
        return None if values is None else values.ravel().astype(precision)

    return {field.name: getattr(a, field.name) for field in fields(a)} | {
        "image_map": flat(a.image_map),
        "grid": None if a.image_map is None else a.image_map.shape,
        "text_map": flat(a.text_map),
        "verdict": a.verdict,
        "history": [{"name": name, "values": values} for name, values in a.history.items()],
        "metrics": [{"name": name, "value": value} for name, value in a.metrics.items()],
        "phrases": [phrase.as_dict() for phrase in a.phrases],
        "regions": [region.as_dict() for region in a.regions],
        "settings": json.dumps(a.settings),
    }


def to_attribution(row: dict[str, Any]) -> Attribution:
    """The attribution of a row without an error."""
    row = {name: value for name, value in row.items() if name not in ("error", "fingerprint", "verdict")}
    image_map, grid, text_map = row.pop("image_map"), row.pop("grid"), row.pop("text_map")
    return Attribution(
        image_map=None if image_map is None else np.array(image_map, dtype=np.float32).reshape(grid),
        text_map=None if text_map is None else np.array(text_map, dtype=np.float32),
        special=np.array(row.pop("special"), dtype=bool),
        spans=[(start, end) for start, end in row.pop("spans")],
        view=tuple(row.pop("view")),
        history={h["name"]: np.array(h["values"], dtype=np.float32) for h in row.pop("history")},
        metrics={m["name"]: m["value"] for m in row.pop("metrics", None) or ()},  # parts of version 1 have none
        phrases=[Phrase.from_dict(p) for p in row.pop("phrases", None) or ()],
        regions=[Region.from_dict(r) for r in row.pop("regions", None) or ()],
        settings=json.loads(row.pop("settings")),
        **row,
    )
