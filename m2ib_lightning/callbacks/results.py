"""Writes what a fit found: the attributions, a picture of each pair, and a table in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.signals import Ended
from m2ib_lightning.callbacks.summary import ROWS, Drawing, draw, print_table, print_verdicts, print_written
from m2ib_lightning.files import drop_unfinished
from m2ib_lightning.methods import M2IB
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.store.checkpoint import CheckpointFiles
from m2ib_lightning.store.resume import SHOWN, differences

MADE_WITH = "m2ib_made_with"
"""The key of a checkpoint under which it says what it was made with."""


class ResultWriter(Callback):
    """Writes attributions, pictures and a table to a folder at the end of a fit.

    Args:
        folder: `attributions/` and `pictures/` go here.
        pictures: Whether to draw each pair, or how.
        resume: Whether the run goes on from a checkpoint, and may replace what was written when it was interrupted.

    Raises:
        ValueError: The folder holds attributions already; said before anything is computed.
    """

    def __init__(self, folder: str | Path, pictures: bool | Drawing = True, resume: bool = False) -> None:
        self.folder, self.pictures, self.resume = Path(folder), pictures, resume
        self.store = AttributionStore(self.folder / "attributions")
        self.shown: list[Attribution] = []
        self.written = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to mix the results of two runs; those of an interrupted fit make place for its continuation."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # else the user chose another
            trainer.strategy.checkpoint_io = CheckpointFiles()
        for folder in (self.store.folder, self.folder / "pictures", self.folder / "checkpoints"):
            drop_unfinished(folder)
        if self.resume and set(self.store.stop_reasons()) <= {"interrupted"}:
            for part in self.store.parts:
                part.unlink()
        if self.store.parts:
            raise ValueError(
                f"Expected no earlier results in {str(self.folder)!r} but there are {len(self.store)}. "
                "Remedy: choose another --output, or remove that folder."
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what a fit that goes on from there must have in common with this one."""
        checkpoint[MADE_WITH] = self._made_with(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other settings, another model or another precision.

        Raises:
            ValueError: They differ, with each difference.
        """
        found = differences(checkpoint.get(MADE_WITH, {}), self._made_with(trainer, pl_module))
        if found:
            raise ValueError(
                f"Expected the settings of the checkpoint but got others ({'; '.join(found[:SHOWN])}). "
                "Remedy: the same settings, or begin anew without --ckpt_path."
            )

    def _made_with(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        settings = json.loads(json.dumps(pl_module.settings)) if isinstance(pl_module, M2IB) else {}
        return {"model": settings, "precision": str(trainer.precision)}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of a fit, and log how many pairs got which verdict."""
        self._write(pl_module)
        counts = {f"verdict/{verdict}": float(count) for verdict, count in self.store.verdicts().items()}
        for logger in trainer.loggers:
            logger.log_metrics(counts, step=trainer.current_epoch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what an interrupted fit has so far, and say how to go on with it."""
        if not isinstance(exception, KeyboardInterrupt | SystemExit) or not isinstance(pl_module, M2IB):
            return
        if pl_module.mask_fits and all(fit.history for fit in pl_module.mask_fits):
            self._write(pl_module)
            self._report()
            print_written(self.folder)
        last = self.folder / "checkpoints" / "last.ckpt"
        if isinstance(exception, Ended):
            exception.told = last.is_file()
        if last.is_file():
            print(f"Interrupted. To go on: m2ib fit --config {self.folder / 'config.yaml'} --ckpt_path {last}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what a fit gave, when the progress bar has gone.

        A fit that goes on from its very last step has nothing to train, so `on_train_end` was not called: write here.
        """
        if not self.written:
            self._write(pl_module)
        self._report()

    def _report(self) -> None:
        print_table(self.shown, self.written)
        print_verdicts(self.store.verdicts())

    def _write(self, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, M2IB):
            return
        attributions = pl_module.attributions()
        if self.pictures:  # first: where there are results, everything is there
            pairs = [pair for fit in pl_module.mask_fits for pair in fit.batch.pairs]
            draw(self.folder / "pictures", attributions, pairs, self.pictures)
        self.store.append(attributions)
        self.written = len(attributions)
        self.shown = attributions[:ROWS]
