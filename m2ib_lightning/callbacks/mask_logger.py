"""Shows the masks of a fit while they form: pictures, words and histograms in the loggers and in the output folder."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from m2ib_lightning.callbacks.mask_sinks import COLUMNS, EDGES, MaskSink, PairResult, StepMedia, sinks_of
from m2ib_lightning.callbacks.watched import Watched, mask_histograms, read_states
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods import M2IB
from m2ib_lightning.report.animation import save_animation
from m2ib_lightning.report.frame import draw_frame
from m2ib_lightning.report.mask_state import FrameScale, MaskState

SIDE = 448
"""The longer side, in pixels, of the pictures in the final table."""


class MaskLogger(Callback):
    """Logs the masks of chosen pairs every so many steps, and an animation and a table when the fit ends.

    W&B gets pictures, words, histograms, videos and a table; TensorBoard the same as images and text; with any other
    logger, or none, all of it is in the folder: `PAIR/step-0003.png`, `PAIR.gif`, `words.csv`, `histograms.csv`
    and `pairs.csv`; the gallery shows the pictures step by step.

    Args:
        every_n_steps: Steps from one picture to the next, >= 1.
        pairs: Which pairs: so many of the first, or their ids.
        animation: Whether to make an animation of each pair.
        folder: The folder that files go to; `masks` in the Trainer's `default_root_dir` by default.

    Raises:
        ValueError: `every_n_steps` or the number of pairs is below 1; when the fit starts, an id is not in the data.
    """

    def __init__(
        self,
        every_n_steps: int = 1,
        pairs: int | list[str] = 8,
        animation: bool = True,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least("every_n_steps", every_n_steps, 1)
        check_at_least("pairs", pairs if isinstance(pairs, int) else 1, 1)
        self.every_n_steps, self.pairs, self.animation, self.folder = every_n_steps, pairs, animation, folder
        self.watched: list[Watched] = []
        self.scales: dict[str, FrameScale] = {}
        self.sinks: list[MaskSink] = []
        self.root = Path()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the pairs and draw their open masks."""
        if not isinstance(pl_module, M2IB) or not trainer.is_global_zero:
            return
        self.watched = self._choose([Watched(fit, i) for fit in pl_module.mask_fits for i in range(fit.pairs)])
        self.root = Path(self.folder or Path(trainer.default_root_dir) / "masks")
        self.root.mkdir(parents=True, exist_ok=True)
        self.sinks = sinks_of(trainer)
        states = read_states(self.watched, trainer.current_epoch)
        if trainer.current_epoch == 0:
            self.scales.clear()
        self._forget(after=trainer.current_epoch)
        for watched, state in zip(self.watched, states, strict=True):
            self.scales.setdefault(watched.id, FrameScale.at_start(state))
            self._draw(watched, state)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log every n-th step; the scalars of the step are logged right after this."""
        step = trainer.current_epoch + 1
        if not self.watched or step % self.every_n_steps:
            return
        media = []
        for watched, state in zip(self.watched, read_states(self.watched, step), strict=True):
            caption = f"{watched.id} · step {step} · loss {state.loss:.3f}"
            top = self.scales[watched.id].word
            picture = self._draw(watched, state)
            media.append(StepMedia(watched.id, step, caption, picture, state.words(), top, mask_histograms(watched)))
        self._write(media)
        for sink in self.sinks:
            sink.step(media)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the animations and the table."""
        if not self.watched or not isinstance(pl_module, M2IB):
            return
        steps = trainer.current_epoch
        found = {a.id: a for a in pl_module.attributions()}
        results = []
        for watched, state in zip(self.watched, read_states(self.watched, steps), strict=True):
            self._draw(watched, state)
            a, image = found[watched.id], watched.fit.batch.pairs[watched.row].image.convert("RGB")
            image.thumbnail((SIDE, SIDE))
            folder = self.root / watched.id
            image.save(folder / "image.png", compress_level=1)
            overlay = None if a.image_map is None else folder / "overlay.png"
            if overlay is not None:
                a.overlay(image).save(overlay, compress_level=1)
            moving = self._animate(watched.id) if self.animation else None
            results.append(PairResult(a, folder / "image.png", overlay, moving, state.words()))
        (self.root / "pairs.csv").unlink(missing_ok=True)
        _append(self.root / "pairs.csv", COLUMNS, [result.values() for result in results])
        for sink in self.sinks:
            sink.end(steps, results)

    def state_dict(self) -> dict[str, Any]:
        """The colour scales, so that a resumed fit goes on with them."""
        return {"scales": {name: tuple(scale) for name, scale in self.scales.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the colour scales of an interrupted fit."""
        self.scales = {name: FrameScale(*scale) for name, scale in state_dict["scales"].items()}

    def _choose(self, every: Sequence[Watched]) -> list[Watched]:
        if isinstance(self.pairs, int):
            return list(every[: self.pairs])
        by_id = {watched.id: watched for watched in every}
        missing = [name for name in self.pairs if name not in by_id]
        if missing:
            raise ValueError(
                f"Expected `pairs` to name pairs of the data but got {missing[0]!r}. "
                f"Remedy: choose among {', '.join(map(repr, list(by_id)[:5]))}, ..."
            )
        return [by_id[name] for name in self.pairs]

    def _draw(self, watched: Watched, state: MaskState) -> Path:
        """The picture of a pair after a step, in its file."""
        path = self.root / watched.id / f"step-{state.step:04d}.png"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            frame = draw_frame(state, watched.fit.batch.pairs[watched.row].image, self.scales[watched.id])
            frame.save(path, compress_level=1)
        return path

    def _animate(self, name: str) -> Path:
        frames = []
        for file in sorted((self.root / name).glob("step-*.png")):
            with Image.open(file) as frame:
                frames.append(frame.convert("RGB"))
        save_animation(frames, self.root / f"{name}.gif")
        return self.root / f"{name}.gif"

    def _forget(self, after: int) -> None:
        """Remove what an earlier fit, one that did not end, left here of the steps that are made now."""
        for watched in self.watched:
            for frame in (self.root / watched.id).glob("step-*.png"):
                if after == 0 or int(frame.stem.removeprefix("step-")) > after:
                    frame.unlink()
        for path in (self.root / "words.csv", self.root / "histograms.csv"):
            if path.exists():
                with path.open(newline="", encoding="utf-8") as file:
                    header, *rows = csv.reader(file)
                path.unlink()
                _append(path, header, [row for row in rows if int(row[1]) <= after])

    def _write(self, media: Sequence[StepMedia]) -> None:
        words = [(m.pair, m.step, i, *word) for m in media for i, word in enumerate(m.words)]
        _append(self.root / "words.csv", ("pair", "step", "position", "word", "nats", "mask"), words)
        counts = [(m.pair, m.step, name, *h.counts) for m in media for name, h in m.histograms.items()]
        _append(
            self.root / "histograms.csv", ("pair", "step", "modality", *(f"from {e:g}" for e in EDGES[:-1])), counts
        )


def _append(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows] if new else rows)
