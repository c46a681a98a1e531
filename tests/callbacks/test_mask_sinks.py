"""What W&B and TensorBoard are handed of the masks of a fit."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from m2ib_lightning.callbacks.mask_sinks import (
    COLUMNS,
    EDGES,
    PairResult,
    StepMedia,
    TensorBoardSink,
    WandbSink,
    sinks_of,
)
from m2ib_lightning.callbacks.watched import BINS, Histogram
from m2ib_lightning.display import words_html
from tests.made import attribution

WORDS = [("an", 10.2, 0.1), ("van", 160.4, 0.5)]
COUNTS = [0] * (BINS - 2) + [3, 4]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {
        name: tmp_path / f"{name}.{'gif' if name == 'moving' else 'png'}" for name in ("image", "overlay", "moving")
    }
    for path in found.values():
        Image.new("RGB", (6, 4), "red").save(path)
    return found


@pytest.fixture
def results(files) -> list[PairResult]:
    """A pair that is shown in full, and one without a map of its image, whose fit ended before its first step."""
    history = {
        "loss/total": np.array([9.0, 1.0], np.float32),
        "image/compression": np.array([5.0, 0.25], np.float32),
        "text/compression": np.array([], np.float32),
    }
    full = attribution(id="a", text="an|van", image_score=0.25, text_score=0.125, history=history, steps=1234)
    bare = attribution(id="b", image_map=None, image_score=math.nan, history={}, stop_reason="")
    return [
        PairResult(full, files["image"], files["overlay"], files["moving"], WORDS),
        PairResult(bare, files["image"], None, None, []),
    ]


@pytest.fixture
def media(files) -> list[StepMedia]:
    histogram = Histogram(COUNTS, 6.5, 6.1)
    return [
        StepMedia("a", 3, "a · step 3", files["image"], WORDS, 200.0, {"image": histogram}),
        StepMedia("b", 3, "b · step 3", files["image"], [], 200.0, {}),
    ]


def test_a_pair_has_a_value_for_each_column(results):
    first, second = (dict(zip(COLUMNS, result.values(), strict=True)) for result in results)
    assert first == {
        "pair": "a", "text": "an|van", "words": "van 160, an 10", "similarity": 0.5, "image_similarity": 0.25,
        "text_similarity": 0.125, "image_compression": 0.25, "text_compression": pytest.approx(math.nan, nan_ok=True),
        "steps": 1234, "stop_reason": "max_steps", "verdict": results[0].attribution.verdict,
    }  # fmt: skip
    assert second["words"] == "" and all(math.isnan(second[name]) for name in ("image_similarity", "image_compression"))


def test_the_edges_are_those_of_32_buckets_of_one_width():
    np.testing.assert_array_equal(EDGES, np.linspace(0, 1, 33))


def test_a_row_of_wandb_is_left_open_for_the_scalars_of_its_step(media):
    rows = []
    WandbSink(SimpleNamespace(experiment=SimpleNamespace(log=lambda row, **how: rows.append((row, how))))).step(media)
    ((row, how),) = rows
    assert how == {"commit": False}
    assert list(row) == ["masks/a", "words/a", "lambda_/a/image", "masks/b"]
    assert row["masks/a"]._caption == "a · step 3" and Path(row["masks/a"]._path).read_bytes()[:4] == b"\x89PNG"
    assert row["lambda_/a/image"].histogram == COUNTS and row["lambda_/a/image"].bins == EDGES
    said = Path(row["words/a"]._path).read_text("utf-8")
    assert said == words_html(WORDS, 200.0, "a · step 3")  # and nothing of W&B's is put into it


def test_wandb_ends_with_a_video_of_each_pair_that_has_one_and_a_table(results, files):
    rows = []
    WandbSink(SimpleNamespace(experiment=SimpleNamespace(log=rows.append))).end(7, results)
    (row,) = rows
    assert row.keys() == {"trainer/global_step", "animation/a", "pairs"} and row["trainer/global_step"] == 7
    assert row["animation/a"]._caption == "a, 1234 steps" and row["animation/a"]._format == "gif"
    table = row["pairs"]
    assert table.columns == ["image", "overlay", *COLUMNS]
    (image, overlay, *first), (_, none, *second) = table.data
    assert Path(image._path).stem == "image" and Path(overlay._path).stem == "overlay" and none is None
    np.testing.assert_equal([first, second], [list(result.values()) for result in results])


class Writer:
    """Notes what it is told to write."""

    def __init__(self) -> None:
        self.texts, self.histograms, self.pictures, self.flushed = {}, {}, [], 0

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts[tag] = (text, step)

    def add_histogram_raw(self, tag: str, **values: object) -> None:
        self.histograms[tag] = values

    def add_summary(self, summary: object, step: int) -> None:
        (value,) = summary.value
        self.pictures.append((value.tag, value.image, step))

    def _get_file_writer(self) -> "Writer":
        return self

    def flush(self) -> None:
        self.flushed += 1


class OtherWriter(Writer):
    """One of tensorboardX."""


OtherWriter.__module__ = "tensorboardX.writer"


@pytest.mark.parametrize("kind", [Writer, OtherWriter])
def test_tensorboard_gets_pictures_words_and_histograms_of_a_step(kind, media, files):
    home = "tensorboardX.proto" if kind is OtherWriter else "tensorboard.compat.proto"
    proto = pytest.importorskip(f"{home}.summary_pb2")
    writer = kind()
    TensorBoardSink(SimpleNamespace(experiment=writer)).step(media)
    assert [(tag, step) for tag, _, step in writer.pictures] == [("masks/a", 3), ("masks/b", 3)]
    image = writer.pictures[0][1]
    assert isinstance(image, proto.Summary.Image)
    assert (image.width, image.height, image.colorspace) == (6, 4, 3)
    assert image.encoded_image_string == files["image"].read_bytes()
    table = "| word | nats | mask value |\n|---|---|---|\n| an | 10 | 0.10 |\n| van | 160 | 0.50 |"
    assert writer.texts == {"words/a": (f"a · step 3\n\n{table}", 3)}
    assert writer.histograms == {
        "lambda_/a/image": {
            "min": 0.0, "max": 1.0, "num": 7, "sum": 6.5, "sum_squares": 6.1,
            "bucket_limits": [i / 32 for i in range(1, 33)], "bucket_counts": COUNTS, "global_step": 3,
        }
    }  # fmt: skip


def test_tensorboard_ends_with_moving_pictures_and_a_table_in_markdown(results, files):
    writer = Writer()
    TensorBoardSink(SimpleNamespace(experiment=writer)).end(7, results)
    assert [(tag, step) for tag, _, step in writer.pictures] == [("animation/a", 7), ("overlay/a", 7)]
    assert writer.pictures[0][1].encoded_image_string == files["moving"].read_bytes() and writer.flushed == 1
    text, step = writer.texts["pairs"]
    head, line, first, second = text.split("\n")
    assert step == 7 and head == f"| {' | '.join(COLUMNS)} |" and line == "|" + " --- |" * len(COLUMNS)
    verdict = results[0].attribution.verdict
    assert first == (
        rf"| a | an\|van | van 160, an 10 | 0.5 | 0.25 | 0.125 | 0.25 | nan | 1234 | max_steps | {verdict} |"
    )
    assert second.startswith("| b | an ice-cream van |  | 0.5 | nan |")


def test_only_loggers_that_take_pictures_get_them(tmp_path: Path):
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path), WandbLogger(save_dir=tmp_path, offline=True)]
    assert [type(sink) for sink in sinks_of(SimpleNamespace(loggers=loggers))] == [TensorBoardSink, WandbSink]
