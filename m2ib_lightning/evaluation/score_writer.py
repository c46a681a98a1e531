"""Under `m2ib test`: scores the attributions of each batch, writes a row per pair and prints the means."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation.evaluate import Evaluator
from m2ib_lightning.evaluation.evidence import Protocol
from m2ib_lightning.methods import AttributionMethod, RandomMap
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.types import Pair


class ScoreWriter(Callback):
    """Writes `attributions/` and `scores.parquet` to a folder, logs each metric's mean and prints a table.

    Random maps of the same pairs are scored beside the method's.

    Args:
        folder: Where to.
        metrics: What is measured; the standard ones by default.
        protocol: How inputs are masked.

    Raises:
        ValueError: There is no protocol of that name.
    """

    def __init__(
        self,
        folder: str | Path,
        metrics: Sequence[PairMetric] | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        self.folder, self.metrics = Path(folder), metrics
        self.protocol = (protocol or Protocol()).checked()
        self.rows: list[dict[str, Any]] = []
        self.evaluators: dict[str, Evaluator] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make an evaluator for the method and one for random maps."""
        if not isinstance(pl_module, AttributionMethod):
            return
        label = type(pl_module).__name__
        random = RandomMap(pl_module.prepare(), pl_module.modalities)
        self.rows = []
        self.evaluators = {
            name: Evaluator(method, copy.deepcopy(self.metrics), self.protocol)
            for name, method in ((label, pl_module), ("random", random))
        }

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sequence[Pair],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score a batch."""
        attributions: list[Attribution] = outputs["attributions"]
        for label, evaluator in self.evaluators.items():
            if label == "random":
                rows = evaluator.explain(batch)[1]
            else:
                seconds = outputs["seconds"] / len(batch)
                rows = [row | {"seconds": seconds} for row in evaluator.score(batch, attributions)]
            self.rows += [row | {"method": label} for row in rows]
        AttributionStore(self.folder / "attributions").append(attributions)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the values of each pair and print the table."""
        import pandas as pd
        from rich.console import Console

        from m2ib_lightning.evaluation.comparison import Comparison
        from m2ib_lightning.report.comparison import scores_tables

        frame = pd.DataFrame(self.rows)
        frame.to_parquet(self.folder / "scores.parquet")
        measured = next(iter(self.evaluators.values())).metrics
        console = Console()
        for table in scores_tables(Comparison(frame, measured, self.folder, self.protocol), console.width):
            table.caption_justify = "left"
            console.print(table)
