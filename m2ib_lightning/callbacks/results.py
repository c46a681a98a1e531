"""Writes what was found: the attributions, a picture of each pair, and a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.methods import M2IB
from m2ib_lightning.report.figure import save_pair_figure
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.types import Pair

ROWS = 40
"""The most pairs that the table in the terminal shows."""


class ResultWriter(BasePredictionWriter):
    """Writes attributions, pictures and a table to a folder: at the end of a fit, batch by batch of a prediction.

    Args:
        folder: `attributions/` and `pictures/` go here.
        pictures: Whether to draw each pair; by default for a fit and not for a prediction.
        resume: Whether the run goes on from a checkpoint, and may replace what was written when it was interrupted.

    Raises:
        ValueError: The folder holds attributions already; said before anything is computed.
    """

    def __init__(self, folder: str | Path, pictures: bool | None = None, resume: bool = False) -> None:
        super().__init__("batch")
        self.folder, self.pictures, self.resume = Path(folder), pictures, resume
        self.store = AttributionStore(self.folder / "attributions")
        self.shown: list[Attribution] = []
        self.drawn = self.written = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to mix the results of two runs; those of an interrupted fit make place for its continuation."""
        if self.resume and {a.stop_reason for a in self.store} <= {"interrupted"}:
            for part in self.store.parts:
                part.unlink()
        if self.store.parts:
            raise ValueError(
                f"Expected no earlier results in {str(self.folder)!r} but there are {len(self.store)}. "
                "Remedy: choose another --output, or remove that folder."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of a fit."""
        self._write_fit(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what an interrupted fit has so far, and say how to go on with it."""
        if not isinstance(exception, KeyboardInterrupt) or not isinstance(pl_module, M2IB):
            return
        if pl_module.mask_fits and all(fit.history for fit in pl_module.mask_fits):
            self._write_fit(pl_module)
            self._report()
        last = self.folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            print(f"Interrupted. To go on: m2ib fit --config {self.folder / 'config.yaml'} --ckpt_path {last}")

    def _write_fit(self, pl_module: LightningModule) -> None:
        if isinstance(pl_module, M2IB):
            pairs = [pair for fit in pl_module.mask_fits for pair in fit.batch.pairs]
            self._write(pl_module.attributions(), pairs, draw=self.pictures is not False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what a fit gave, when the progress bar has gone.

        A fit that goes on from its very last step has nothing to train, so `on_train_end` was not called: write here.
        """
        if not self.written:
            self._write_fit(pl_module)
        self._report()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the results of a batch of a prediction."""
        self._write(prediction, batch, draw=self.pictures is True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what a prediction gave."""
        self._report()

    def _write(self, attributions: Sequence[Attribution], pairs: Sequence[Pair], draw: bool) -> None:
        self.store.append(attributions)
        self.written += len(attributions)
        self.shown += attributions[: ROWS - len(self.shown)]
        if draw:
            folder = self.folder / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            for attribution, pair in zip(attributions, pairs, strict=True):
                save_pair_figure(attribution, pair.image, folder / f"{pair.id}.png")
            self.drawn += len(pairs)

    def _report(self) -> None:
        from rich.console import Console

        from m2ib_lightning.report.table import results_table

        console = Console()
        console.print(results_table(self.shown))
        if self.written > len(self.shown):
            console.print(f"and {self.written - len(self.shown)} more pairs")
        console.print("Written:", style="bold")
        what = [f"{self.store.folder}/  {self.written} attributions, Parquet"]
        if self.drawn:
            what.append(f"{self.folder / 'pictures'}/  {self.drawn} pictures")
        what.append(f"{self.folder / 'config.yaml'}  the full configuration")
        for line in what:
            console.print("  " + line, soft_wrap=True, highlight=False)
