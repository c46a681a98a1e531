"""Under `Trainer.test`: scores the attributions of each batch, writes a row per pair and shows the means."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.data.datamodule import PairDataModule, pair_data
from m2ib_lightning.evaluation import Comparison, Evaluator, Protocol
from m2ib_lightning.files import drop_unfinished, replacing
from m2ib_lightning.methods import AttributionMethod, CentrePrior, RandomMap, UniformMap
from m2ib_lightning.methods.base import Explained
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.store import AttributionStore, Provenance
from m2ib_lightning.store.lock import FolderLock
from m2ib_lightning.store.resume import check_same
from m2ib_lightning.types import Pair

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = (RandomMap, CentrePrior, UniformMap)
"""Maps that know nothing of a pair, which every comparison holds: what a metric gives them, it gives for nothing."""


class ScoreWriter(Callback):
    """Writes `attributions/` and `scores.parquet` to a folder and shows and logs each metric's mean.

    Every batch is a part of the store and, beside it in `scores/`, a part of the rows. A run that was killed goes on
    behind the pairs that the store holds; with other settings or pairs it is refused.

    Args:
        folder: The folder that everything is written to.
        metrics: What is measured; the standard ones by default.
        protocol: How inputs are masked to score a map.
        controls: Whether random, centre and uniform maps of the same pairs are scored beside the method's.
        show: Whether the means are printed at the end, and logged.

    Raises:
        ValueError: The folder holds the scores of another run.
        StoreError: Another command writes to the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        metrics: Sequence[PairMetric] | None = None,
        protocol: Protocol | None = None,
        controls: bool = True,
        show: bool = True,
    ) -> None:
        self.folder, self.metrics = Path(folder), metrics
        self.protocol = protocol or Protocol()
        self.controls, self.show = controls, show
        self.store = AttributionStore(self.folder / "attributions")
        self.lock = FolderLock(self.store.folder)
        self.evaluators: dict[str, Evaluator] = {}
        self.provenance: Provenance | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make an evaluator for the method and one for each control, and pass over the pairs that are done."""
        if stage != "test" or not isinstance(pl_module, AttributionMethod):
            return
        methods: list[AttributionMethod] = [pl_module]
        if self.controls:
            shared = (pl_module.prepare(), pl_module.modalities)
            methods += [kind(*shared) for kind in CONTROLS if not isinstance(pl_module, kind)]
        self.evaluators = {
            type(method).__name__: Evaluator(method, copy.deepcopy(self.metrics), self.protocol) for method in methods
        }
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.provenance = self._provenance(pl_module, data, str(trainer.precision))
        self.lock.take()
        if (there := self.store.provenance) is not None:
            check_same(self.folder, there, self.provenance)
        for folder in (self.store.folder, self.folder / "scores", self.folder):
            drop_unfinished(folder)
        if isinstance(data, PairDataModule):
            data.skip = self.store.ids()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sequence[Pair],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score a batch and write it, the rows first: a part of them counts when the store has the same part."""
        import pandas as pd

        found: Explained = outputs
        rows = []
        for label, evaluator in self.evaluators.items():
            attributions, seconds = found["attributions"], found["seconds"]
            if evaluator.method is not pl_module:
                start = time.perf_counter()
                attributions = evaluator.method.explain(found["inputs"])
                seconds = time.perf_counter() - start
            each = {"method": label, "seconds": seconds / len(batch)}
            rows += [row | each for row in evaluator.score(found["inputs"], attributions)]
        part = self.folder / "scores" / self.store.next_part().name
        part.parent.mkdir(parents=True, exist_ok=True)
        with replacing(part) as unfinished:
            pd.DataFrame(rows).to_parquet(unfinished)
        self.store.append(found["attributions"], self.provenance)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gather the rows of all batches in `scores.parquet`, and show and log the means."""
        if stage != "test" or not self.evaluators:
            return
        comparison = self.comparison()
        with replacing(self.folder / "scores.parquet") as unfinished:
            comparison.frame.to_parquet(unfinished)
        if (data := pair_data(trainer)) is not None:
            data.skip = frozenset()
        self.lock.release()
        if self.show:
            means = comparison.means()
            for logger in trainer.loggers:
                logger.log_metrics(means, step=0)
            self._print(comparison)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the folder to the next run."""
        self.lock.release()

    def comparison(self) -> Comparison:
        """What was found, the method beside the controls."""
        controls = [label for label, evaluator in self.evaluators.items() if evaluator.method.control]
        metrics = next(iter(self.evaluators.values())).metrics
        return Comparison(self._frame(), metrics, self.folder, self.protocol, controls)

    def _frame(self) -> pd.DataFrame:
        """The rows of all pairs that the store holds, method by method."""
        import pandas as pd

        parts = [pd.read_parquet(self.folder / "scores" / part.name) for part in self.store.parts]
        frame = pd.concat(parts, ignore_index=True)
        order = {label: place for place, label in enumerate(self.evaluators)}
        return frame.sort_values("method", key=lambda label: label.map(order), kind="stable", ignore_index=True)

    def _provenance(self, method: AttributionMethod, data: Any, precision: str) -> Provenance:
        """What the scores follow from; runs that differ in it do not share a folder."""
        backbone = method.prepare()
        measured = next(iter(self.evaluators.values())).metrics
        configuration = {
            "settings": method.settings,
            "protocol": asdict(self.protocol),
            "metrics": [metric.name for metric in measured],
            "controls": self.controls,
            "precision": precision,
            "data": _described(data) if isinstance(data, PairDataModule) else type(data).__name__,
        }
        return Provenance(method.backbone_name, backbone.weight_hash, configuration)

    def _print(self, comparison: Comparison) -> None:
        """The table of the means."""
        from rich.console import Console

        from m2ib_lightning.report.comparison import scores_tables

        console = Console()
        for table in scores_tables(comparison, console.width):
            table.caption_justify = "left"
            console.print(table)


def _described(data: PairDataModule) -> dict[str, Any]:
    """Which pairs a data module reads, in values that JSON can keep."""
    return {
        "image": data.image,
        "text": data.text,
        "source": data.source,
        "dataset": data.dataset and type(data.dataset).__name__,
        "scenes": data.scenes,
        "scene_options": data.scene_options,
    } | ({} if data.phrases is None else {"phrases": data.phrases})
