"""Writes what a fit found: the attributions, a picture of each pair, and a table in the terminal."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.summary import ROWS, Drawing, draw, print_table, print_written
from m2ib_lightning.methods import M2IB
from m2ib_lightning.store import AttributionStore


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
        if self.resume and set(self.store.stop_reasons()) <= {"interrupted"}:
            for part in self.store.parts:
                part.unlink()
        if self.store.parts:
            raise ValueError(
                f"Expected no earlier results in {str(self.folder)!r} but there are {len(self.store)}. "
                "Remedy: choose another --output, or remove that folder."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of a fit."""
        self._write(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what an interrupted fit has so far, and say how to go on with it."""
        if not isinstance(exception, KeyboardInterrupt) or not isinstance(pl_module, M2IB):
            return
        if pl_module.mask_fits and all(fit.history for fit in pl_module.mask_fits):
            self._write(pl_module)
            print_table(self.shown, self.written)
            print_written(self.folder)
        last = self.folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            print(f"Interrupted. To go on: m2ib fit --config {self.folder / 'config.yaml'} --ckpt_path {last}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what a fit gave, when the progress bar has gone.

        A fit that goes on from its very last step has nothing to train, so `on_train_end` was not called: write here.
        """
        if not self.written:
            self._write(pl_module)
        print_table(self.shown, self.written)

    def _write(self, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, M2IB):
            return
        attributions = pl_module.attributions()
        self.store.append(attributions)
        self.written = len(attributions)
        self.shown = attributions[:ROWS]
        if self.pictures:
            pairs = [pair for fit in pl_module.mask_fits for pair in fit.batch.pairs]
            draw(self.folder / "pictures", attributions, pairs, self.pictures)
