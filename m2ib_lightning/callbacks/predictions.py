"""Writes the results of a prediction as they come, so that it can be killed at any moment and resumed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.signals import Ended, known_signals, take_over
from m2ib_lightning.callbacks.summary import ROWS, Drawing, draw, print_changed, print_table, print_totals
from m2ib_lightning.data.datamodule import PairDataModule, pair_data
from m2ib_lightning.files import drop_unfinished
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.store import AttributionStore, Provenance, StoreError
from m2ib_lightning.store.lock import FolderLock
from m2ib_lightning.store.resume import check_same
from m2ib_lightning.store.rows import Precision
from m2ib_lightning.store.writer import PartWriter
from m2ib_lightning.types import BadPair, Pair


class PredictionWriter(Callback):
    """Writes attributions to `FOLDER/attributions` in Parquet parts, and goes on where an earlier run stopped.

    Pairs that are there already, good or bad, are not read again. Every process writes parts of its own; the first
    one waits at the end until all have finished, and shows what there is.

    Args:
        folder: The folder of the run; `pictures/` goes there too.
        pictures: Whether to draw each pair, or how.
        configuration: What changes the results, besides the weights; the method's settings by default. A folder takes
            results of one configuration.
        maps: Precision of the maps: float32, or float16, which halves their size.
        part_pairs: A part is written when so many pairs are finished.
        part_seconds: Or when the last part is so long ago. A process that is killed redoes at most that.
        retry_errors: Whether to try the bad pairs again that are there.
        retry_changed: Whether to explain those pairs again whose caption or image file is another one than it was.

    Raises:
        ValueError: A number is too small, or the folder holds results of another configuration.
        StoreError: The folder cannot be read or written, or another command writes there.
    """

    def __init__(
        self,
        folder: str | Path,
        pictures: bool | Drawing = False,
        configuration: dict[str, Any] | None = None,
        maps: Precision = "float32",
        part_pairs: int = 512,
        part_seconds: float = 30.0,
        retry_errors: bool = False,
        retry_changed: bool = False,
    ) -> None:
        if part_pairs < 1 or part_seconds < 0:
            raise ValueError(
                f"Expected `part_pairs` from 1 and `part_seconds` from 0 but got {part_pairs} and {part_seconds}. "
                "Remedy: the defaults are 512 and 30."
            )
        self.folder, self.pictures, self.configuration, self.maps = Path(folder), pictures, configuration, maps
        self.part_pairs, self.part_seconds, self.retry_errors = part_pairs, part_seconds, retry_errors
        self.retry_changed = retry_changed
        self.store = AttributionStore(self.folder / "attributions")
        self.lock = FolderLock(self.store.folder)
        self.writer: PartWriter | None = None
        self.shown: list[Attribution] = []
        self.written = self.explained = 0
        self.stopped_by = 0
        self._parent = os.getppid()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the folder, refuse it if it holds something else, and find out what is done."""
        if stage != "predict" or not isinstance(pl_module, AttributionMethod):
            return
        data = pair_data(trainer)
        if trainer.is_global_zero:
            try:
                self._open(pl_module, data)
            except BaseException:
                self.lock.release()
                _tell_children(trainer, signal.SIGKILL)  # they wait for this process below
                raise
        trainer.strategy.barrier()
        self.lock.share()
        self.writer = PartWriter(
            self.store, self._provenance(pl_module), trainer.global_rank, self.maps, self.part_pairs, self.part_seconds
        )
        if data is not None:
            data.skip = self.store.ids()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM and SIGHUP end the run after the batch that is being computed, with everything written."""

        def stop(number: int, _: Any) -> None:
            self.stopped_by = self.stopped_by or number
            _tell_children(trainer, signal.SIGTERM)

        if threading.current_thread() is threading.main_thread():
            for number in set(known_signals()) - {signal.SIGINT}:
                take_over(number, stop)  # the Trainer puts the former handler back

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sequence[Pair | BadPair],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the results of a batch."""
        assert self.writer is not None
        good = [result for result in outputs if isinstance(result, Attribution)]
        pairs = [pair for pair in batch if isinstance(pair, Pair)]
        if self.pictures:  # first: a pair whose picture is missing is not done
            draw(self.folder / "pictures", good, pairs, self.pictures)
        self.writer.add(outputs, {pair.id: pair.fingerprint for pair in pairs})
        self.written += len(outputs)
        self.explained += len(good)
        self.shown += good[: ROWS - len(self.shown)]
        # A process whose launcher was killed is in the way of the next run.
        orphan = trainer.local_rank > 0 and os.getppid() != self._parent
        if self.stopped_by or orphan:
            # Lightning kills the first process when another one ends with anything but 0.
            raise Ended(0 if trainer.global_rank else 128 + self.stopped_by)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what there is, and say how to go on."""
        if self.writer is not None and not isinstance(exception, StoreError):
            self.writer.flush()
        self.lock.release()
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt | SystemExit):
            print(f"Stopped; what was finished is written. The same command with --output {self.folder} goes on.")
        if isinstance(exception, Ended):
            exception.told = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the rest and, in the first process, show the totals of all when they have finished."""
        if self.writer is None:
            return
        self.writer.flush()
        self.writer = None
        if trainer.is_global_zero:
            self.lock.take(patience=float("inf"))
            self._report()
        self.lock.release()

    def _open(self, method: AttributionMethod, data: PairDataModule | None) -> None:
        """What one process does for all, alone in the folder."""
        self.lock.take()
        there = self.store.provenance
        if there is not None:
            if data is None:
                raise ValueError(
                    f"Expected no earlier results in {str(self.folder)!r} but there are {len(self.store)}. "
                    "Remedy: choose another folder, or pass a PairDataModule, which leaves out what is done."
                )
            if self.configuration is not None:  # before the model is loaded
                check_same(self.folder, there, Provenance("", "", self._configuration(method)))
            check_same(self.folder, there, self._provenance(method))
        for folder in (self.store.folder, self.folder / "pictures"):
            drop_unfinished(folder)
        self.store.check()
        if self.retry_errors:
            self.store.drop_errors()
        if data is not None:
            self._look_for_changes(data)

    def _look_for_changes(self, data: PairDataModule) -> None:
        """Say which pairs are others than those that were explained under their ids."""
        changed = data.changed(self.store.inputs())
        if not changed:
            return
        print_changed(changed, self.retry_changed)
        if self.retry_changed:
            self.store.drop(changed)

    def _configuration(self, method: AttributionMethod) -> dict[str, Any]:
        return {**(method.settings if self.configuration is None else self.configuration), "maps": self.maps}

    def _provenance(self, method: AttributionMethod) -> Provenance:
        weights = method.prepare().weight_hash
        return Provenance(method.backbone_name, weights, self._configuration(method))

    def _report(self) -> None:
        print_table(self.shown, self.explained)
        print_totals(self.store, nothing_done=not self.written)


def _tell_children(trainer: Trainer, signum: signal.Signals) -> None:
    """Pass a signal on to the processes that the Trainer has started, if any."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signum)
