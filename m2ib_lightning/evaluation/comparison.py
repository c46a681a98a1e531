"""Several methods over the same pairs, one after the other; what is finished is kept and a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2ib_lightning.data import PairDataModule
from m2ib_lightning.data.pairs import read_pair
from m2ib_lightning.evaluation.evaluate import Evaluator, Precision, standard_metrics
from m2ib_lightning.evaluation.evidence import Protocol
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.store import AttributionStore

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        frame: A row per method and pair: method, id, protocol, a column per metric, seconds, and curves as lists.
        metrics: What was measured, for directions and units.
        folder: Where it is, with each method's attributions in `<method>/attributions`.
        protocol: How inputs were masked; its `caption` belongs under every table of it.
    """

    frame: pd.DataFrame
    metrics: Sequence[PairMetric]
    folder: Path
    protocol: Protocol = field(default_factory=Protocol)

    @property
    def methods(self) -> list[str]:
        """Labels, in the order they were given."""
        return list(dict.fromkeys(self.frame["method"]))

    def values(self, method: str, metric: str) -> pd.Series:
        """A metric's value for each pair, by the pair's id."""
        rows = self.frame[self.frame["method"] == method]
        return rows.set_index("id")[metric]


def compare(
    methods: Mapping[str, AttributionMethod],
    data: PairDataModule,
    folder: str | Path,
    metrics: Sequence[PairMetric] | None = None,
    protocol: Protocol | None = None,
    tell: Callable[[str], None] = lambda line: None,
    precision: Precision = "32-true",
) -> Comparison:
    """Explain and score the pairs by each method in turn.

    Batches that an earlier run of the same comparison has finished are not done again.

    Args:
        methods: By the label that the table shows; made with the same backbone.
        data: Set up here; pairs without truth have no values for the metrics that need it.
        folder: Everything is written here: `<method>/part-*.parquet`, `<method>/attributions`, `pairs.parquet`.
        metrics: The standard ones by default.
        protocol: How inputs are masked.
        tell: Called with a line now and then.
        precision: Of the explaining; the scoring is in float32 always.

    Raises:
        ValueError: The folder holds a comparison of other pairs, methods' settings or protocols.
    """
    import pandas as pd

    data.setup("test")
    folder, measured = Path(folder), list(standard_metrics() if metrics is None else metrics)
    protocol = (protocol or Protocol()).checked()
    frames = []
    for label, method in methods.items():
        backbone = method.prepare()
        wanted = {
            "settings": method.settings,
            "protocol": protocol._asdict(),
            "metrics": [metric.name for metric in measured],
            "pairs": len(data),
            "batch_size": data.batch_size,
            "data": repr(data.scene_options)
            if data.scenes
            else str(data.source or data.image or type(data.dataset).__name__),
            "first": data.pairs[0].id,
            "precision": precision,
        }
        _same(folder / label, wanted)
        evaluator = Evaluator(method, measured, protocol, precision)
        for start in range(0, len(data), data.batch_size):
            part = folder / label / f"part-{start:06d}.parquet"
            if not part.is_file():
                _do_batch(evaluator, data, range(start, min(start + data.batch_size, len(data))), part)
            frames.append(pd.read_parquet(part).assign(method=label))
        seconds = pd.concat([frame for frame in frames if frame["method"].iloc[0] == label])["seconds"].mean()
        tell(f"{label}: {len(data)} pairs, {seconds:.3f} s each on {backbone.device}")
    whole = pd.concat(frames, ignore_index=True)
    whole.to_parquet(folder / "pairs.parquet")
    return Comparison(whole, measured, folder, protocol)


def _do_batch(evaluator: Evaluator, data: PairDataModule, indices: range, part: Path) -> None:
    import pandas as pd

    pairs = [read_pair(data.pairs[i]) for i in indices]
    attributions, rows = evaluator.explain(pairs)
    store = AttributionStore(part.parent / "attributions" / part.stem)
    if not store.parts:
        store.append(attributions)
    unfinished = part.with_suffix(f".{os.getpid()}.unfinished")
    pd.DataFrame(rows).to_parquet(unfinished)
    unfinished.replace(part)


def _same(folder: Path, wanted: dict[str, Any]) -> None:
    """Refuse to go on with a comparison that was made otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    file, now = folder / "made_with.json", json.loads(json.dumps(wanted, default=str))
    if not file.is_file():
        file.write_text(json.dumps(now, indent=1))
        return
    before = json.loads(file.read_text())
    wrong = [key for key, value in now.items() if before.get(key) != value]
    if wrong:
        raise ValueError(
            f"Expected {str(folder)!r} to hold the same comparison but its {' and '.join(wrong)} are others. "
            "Remedy: choose another --output, or remove that folder."
        )
