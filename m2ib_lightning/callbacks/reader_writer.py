"""Writes a reader of masks while it is trained, and what the training goes on from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.callbacks.signals import Ended
from m2ib_lightning.methods.reader_training import ReaderTraining
from m2ib_lightning.store.checkpoint import CheckpointFiles
from m2ib_lightning.store.resume import SHOWN, differences

SECONDS = 30.0
"""What is lost at most by a kill that cannot be answered."""


class ReaderWriter(Callback):
    """Writes the reader and a checkpoint every half minute, at the end, and when the training is interrupted.

    Args:
        folder: Of the reader.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "checkpoints" / "last.ckpt"
        self.written = time.monotonic()

    @property
    def last(self) -> str | None:
        """The checkpoint to go on from, if there is one."""
        return str(self.file) if self.file.is_file() else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints written whole and read as plain values."""
        trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what a training that goes on from there must have in common with this one."""
        checkpoint["made_with"] = _made_with(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another model, setting or size.

        Raises:
            ValueError: They differ, with each difference.
        """
        found = differences(checkpoint.get("made_with", {}), _made_with(pl_module))
        if found:
            raise ValueError(
                f"Expected the settings that the reader in {str(self.folder)!r} was begun with but got others "
                f"({'; '.join(found[:SHOWN])}). Remedy: the same settings, or another --output."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write where half a minute has passed."""
        if time.monotonic() - self.written > SECONDS:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was trained."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what was trained until Ctrl-C or a signal."""
        if isinstance(exception, KeyboardInterrupt | SystemExit):
            self._write(trainer, pl_module)
            print(f"Interrupted. The same command goes on; {self.folder} holds what was trained so far.")
            if isinstance(exception, Ended):
                exception.told = True

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, ReaderTraining):
            pl_module.reader.save(self.folder)
            trainer.save_checkpoint(self.file)
            self.written = time.monotonic()


def _made_with(pl_module: LightningModule) -> dict[str, Any]:
    """What two trainings of one reader have in common."""
    reader = pl_module.reader if isinstance(pl_module, ReaderTraining) else None
    return {} if reader is None else {"size": list(reader.size), **reader.setting}
