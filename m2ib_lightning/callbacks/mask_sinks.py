"""Where pictures of masks go besides the output folder: W&B and TensorBoard; other loggers get the numbers alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.watched import BINS, Histogram
from m2ib_lightning.display import words_html
from m2ib_lightning.report.words import words_line, words_markdown
from m2ib_lightning.types import MODALITIES, Modality

EDGES = [i / BINS for i in range(BINS + 1)]
"""Of the histograms' buckets."""

COLUMNS = (
    "pair", "text", "words", "similarity", "image_similarity", "text_similarity", "image_compression",
    "text_compression", "steps", "stop_reason", "verdict",
)  # fmt: skip
"""Similarity of the clean pair and through each bottleneck; compression in nats, the mean over tokens and channels."""


class PairResult(NamedTuple):
    """What is shown of one pair.

    Attributes:
        attribution: What was found of the pair.
        image: A file with the picture.
        overlay: A file with the map over the picture, None if the image was not explained.
        animation: A file with the fit's pictures, None if there is none.
        words: Each word as (word, nats, mean of lambda_), in the text's order.
    """

    attribution: Attribution
    image: Path
    overlay: Path | None
    animation: Path | None
    words: list[tuple[str, float, float]]

    def values(self) -> tuple[str | float | int, ...]:
        """One value for each of `COLUMNS`, nan where there is none."""
        a = self.attribution
        last = {name: float(values[-1]) for name, values in a.history.items() if len(values)}
        compression = [last.get(f"{modality}/compression", math.nan) for modality in MODALITIES]
        words = words_line([(word, nats) for word, nats, _ in self.words])
        return (
            a.id,
            a.text,
            words,
            a.score,
            a.image_score,
            a.text_score,
            *compression,
            a.steps,
            a.stop_reason,
            a.verdict,
        )


class StepMedia(NamedTuple):
    """What one pair shows after one step.

    Attributes:
        pair: The id of the pair.
        step: How many steps were made.
        caption: Names the pair, the step and its loss.
        picture: The PNG file of the frame.
        words: The same as in `PairResult`; empty if the text is not explained.
        word_top: Nats of the darkest word.
        histograms: How the values of lambda_ are spread, by modality.
    """

    pair: str
    step: int
    caption: str
    picture: Path
    words: list[tuple[str, float, float]]
    word_top: float
    histograms: dict[Modality, Histogram]


class MaskSink(ABC):
    """A logger that takes pictures."""

    @abstractmethod
    def step(self, media: Sequence[StepMedia]) -> None:
        """Log all pairs after a step, before the step's scalars are logged."""

    @abstractmethod
    def end(self, step: int, results: Sequence[PairResult]) -> None:
        """Log the animations and the table when the fit has ended."""


def sinks_of(trainer: Trainer) -> list[MaskSink]:
    """One for each of the Trainer's loggers that takes pictures."""
    kinds: dict[type, Any] = {WandbLogger: WandbSink, TensorBoardLogger: TensorBoardSink}
    return [kind(logger) for logger in trainer.loggers for known, kind in kinds.items() if isinstance(logger, known)]


class WandbSink(MaskSink):
    """Puts the pictures of a step into one row with its scalars, so that W&B's slider moves through steps."""

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def step(self, media: Sequence[StepMedia]) -> None:
        """Left open: Lightning's scalars of the step complete the row."""
        import wandb

        row: dict[str, Any] = {}
        for m in media:
            row[f"masks/{m.pair}"] = wandb.Image(str(m.picture), caption=m.caption)
            if m.words:
                row[f"words/{m.pair}"] = wandb.Html(words_html(m.words, m.word_top, m.caption), inject=False)
            for modality, h in m.histograms.items():
                row[f"lambda_/{m.pair}/{modality}"] = wandb.Histogram(
                    np_histogram=(np.array(h.counts), np.array(EDGES))
                )
        self.logger.experiment.log(row, commit=False)

    def end(self, step: int, results: Sequence[PairResult]) -> None:
        """One row of its own: a video per pair and the table."""
        import wandb

        row: dict[str, Any] = {"trainer/global_step": step}
        table = wandb.Table(columns=["image", "overlay", *COLUMNS])
        for result in results:
            if result.animation is not None:
                caption = f"{result.attribution.id}, {result.attribution.steps} steps"
                row[f"animation/{result.attribution.id}"] = wandb.Video(str(result.animation), caption, format="gif")
            pictures = [file and wandb.Image(str(file)) for file in (result.image, result.overlay)]
            table.add_data(*pictures, *result.values())
        self.logger.experiment.log({**row, "pairs": table})


class TensorBoardSink(MaskSink):
    """Writes the files as they are: TensorBoard shows PNG and moving GIF alike, under "Images"."""

    def __init__(self, logger: TensorBoardLogger) -> None:
        self.writer: Any = logger.experiment

    def step(self, media: Sequence[StepMedia]) -> None:
        """Picture, words and histograms of every pair."""
        for m in media:
            self._picture(f"masks/{m.pair}", m.picture, m.step)
            if m.words:
                self.writer.add_text(f"words/{m.pair}", f"{m.caption}\n\n{words_markdown(m.words)}", m.step)
            for modality, h in m.histograms.items():
                self.writer.add_histogram_raw(
                    f"lambda_/{m.pair}/{modality}", min=0.0, max=1.0, num=sum(h.counts), sum=h.total,
                    sum_squares=h.squares, bucket_limits=EDGES[1:], bucket_counts=h.counts, global_step=m.step,
                )  # fmt: skip

    def end(self, step: int, results: Sequence[PairResult]) -> None:
        """A moving picture per pair, and the table as text."""
        for result in results:
            for name, file in (("animation", result.animation), ("overlay", result.overlay)):
                if file is not None:
                    self._picture(f"{name}/{result.attribution.id}", file, step)
        lines = [COLUMNS, ["---"] * len(COLUMNS), *([_cell(v) for v in result.values()] for result in results)]
        self.writer.add_text("pairs", "\n".join(f"| {' | '.join(line)} |" for line in lines), step)
        self.writer.flush()

    def _picture(self, tag: str, file: Path, step: int) -> None:
        # add_video of the writer needs a further package to make the GIF that is there already.
        home = "tensorboardX.proto" if "tensorboardX" in type(self.writer).__module__ else "tensorboard.compat.proto"
        summary = import_module(f"{home}.summary_pb2").Summary
        with Image.open(file) as image:
            width, height = image.size
        encoded = summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes())
        value = summary.Value(tag=tag, image=encoded)
        self.writer._get_file_writer().add_summary(summary(value=[value]), step)


def _cell(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
