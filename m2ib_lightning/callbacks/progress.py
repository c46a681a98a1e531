"""One line in the terminal while a prediction or a test runs: pairs, pairs per second and the time left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from m2ib_lightning.data.datamodule import pair_data
from m2ib_lightning.types import BadPair

LINE = "{desc}{percentage:3.0f} % |{bar:20}| {n:,} of {total_fmt} pairs, {rate_noinv_fmt}, {remaining} left{postfix}"


class PairProgress(ProgressBar):
    """Pairs that are done, of all, with those of earlier runs; how many a second; the time left; how many are bad.

    With several processes the first one counts its own pairs for each of them.

    Args:
        doing: What the line begins with; by default what the Trainer does.
    """

    def __init__(self, doing: str = "") -> None:
        super().__init__()
        self.doing = doing
        self.enabled, self.bad = True, 0
        self.line: tqdm[Any] | None = None

    def enable(self) -> None:
        """Show the line from now on."""
        self.enabled = True

    def disable(self) -> None:
        """Show nothing; the Trainer asks all processes but the first to."""
        self.enabled = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with what earlier runs have done; show nothing where that is all."""
        self._open(trainer, self.doing or "Explaining")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the line of a test."""
        self._open(trainer, self.doing or "Explaining and scoring")

    def _open(self, trainer: Trainer, doing: str) -> None:
        if not self.enabled:
            return
        data = pair_data(trainer)
        # None where only reading them all would tell.
        total, there = (None, 0) if data is None else (data.count, len(data.skip))
        if total is not None and there >= total:
            return
        # A file that takes the output gets a line now and then.
        seconds = 0.2 if sys.stderr.isatty() else 10.0
        self.line = tqdm(
            total=total, initial=there, desc=f"{doing} ", unit=" pairs", mininterval=seconds, smoothing=0.1,
            bar_format=LINE if total else None, dynamic_ncols=True,
        )  # fmt: skip

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sequence[Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch, and what is bad in it."""
        self.bad += sum(isinstance(result, BadPair) for result in outputs)
        if self.bad and self.line is not None:
            self.line.set_postfix_str(f"{self.bad:,} bad", refresh=False)
        self._count(len(batch) * trainer.world_size)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sequence[Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the pairs of a batch that is done."""
        self._count(len(batch))

    def _count(self, count: int) -> None:
        if self.line is None:
            return
        if self.line.total:
            count = min(count, self.line.total - self.line.n)
        self.line.update(count)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the last line."""
        self._close()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the last line."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the line as it is."""
        self._close()

    def _close(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None
