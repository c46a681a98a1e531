"""Scores of a test are written batch by batch beside the attributions, and gathered, shown and logged at its end."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from m2ib_lightning.callbacks import score_writer
from m2ib_lightning.callbacks.score_writer import ScoreWriter
from m2ib_lightning.data import PairDataModule, Scenes
from m2ib_lightning.evaluation import Protocol
from m2ib_lightning.methods import CentrePrior, RandomMap
from m2ib_lightning.metrics import PointingGame
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.store.lock import FolderLock


def score(writer: ScoreWriter, method=None, data: PairDataModule | None = None, logger=False) -> PairDataModule:
    data = PairDataModule(scenes=3, batch_size=2) if data is None else data
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", logger=logger, callbacks=[writer], **quiet)
    trainer.test(method or CentrePrior("embedded"), datamodule=data, verbose=False)
    return data


def test_every_pair_has_a_row_of_the_method_and_of_each_other_control(tmp_path: Path, monkeypatch, capsys):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(score_writer, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    writer = ScoreWriter(tmp_path, [PointingGame()])
    data = score(writer, logger=CSVLogger(tmp_path, name="logs", version=""))
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    ids = [f"scene-00000{i}" for i in range(3)]
    assert frame.index.tolist() == list(range(9)) and frame["id"].tolist() == ids * 3
    assert frame["method"].tolist() == [m for m in ("CentrePrior", "RandomMap", "UniformMap") for _ in ids]
    assert frame["seconds"].tolist()[3:] == [3, 3, 6] * 2  # 6 for a batch of two, and for one of one
    assert data.skip == frozenset()
    parts = sorted(file.name for file in (tmp_path / "scores").iterdir())
    assert parts == [part.name for part in writer.store.parts] == [f"part-00000-00000{i}.parquet" for i in range(2)]
    assert pd.read_parquet(tmp_path / "scores" / parts[1])["id"].tolist() == ids[2:] * 3
    shown = capsys.readouterr().out
    assert "UniformMap" in shown and "PointingGame" in shown.replace(" ", "")
    logged = pd.read_csv(tmp_path / "logs" / "metrics.csv")
    mean = frame.groupby("method")["image/PointingGame"].mean()
    # The method is a control itself, so its own values stand behind its name too.
    row = logged.dropna(subset=["RandomMap/image/PointingGame"]).iloc[-1]
    assert row["step"] == 0 and row["RandomMap/image/PointingGame"] == pytest.approx(mean["RandomMap"])
    FolderLock(tmp_path / "attributions").take(patience=-1)


def test_a_test_goes_on_behind_what_is_there_and_is_refused_with_other_settings(tmp_path: Path, capsys):
    def writer(**options) -> ScoreWriter:
        return ScoreWriter(tmp_path, [PointingGame()], **{"show": False, "controls": False} | options)

    data = PairDataModule(scenes=2, batch_size=1)
    score(writer(), data=data)
    assert capsys.readouterr().out == ""
    (tmp_path / "attributions" / "part-00000-000001.parquet").unlink()
    left = [tmp_path / name / ".x.1.unfinished" for name in ("", "scores", "attributions")]
    for file in left:
        file.touch()
    before = (tmp_path / "scores" / "part-00000-000000.parquet").stat().st_mtime_ns
    score(writer(), data=PairDataModule(scenes=2, batch_size=1))
    assert (tmp_path / "scores" / "part-00000-000000.parquet").stat().st_mtime_ns == before
    assert pd.read_parquet(tmp_path / "scores.parquet")["id"].tolist() == ["scene-000000", "scene-000001"]
    assert not any(file.exists() for file in left)
    for options, method, changed, message in (
        ({}, RandomMap("embedded"), {}, "method: CentrePrior there, RandomMap now"),
        ({"controls": True}, None, {}, "controls: false there, true now"),
        ({"protocol": Protocol(steps=5)}, None, {}, "protocol.steps: "),
        ({}, None, {"scenes": 3}, "data.scenes: 2 there, 3 now"),
        ({}, None, {"scene_seed": 1}, "data.scene_options: "),
        ({}, None, {"phrases": ["cat"]}, r"data.phrases: null there, \[\"cat\"\] now"),
    ):
        with pytest.raises(ValueError, match=message):
            score(writer(**options), method, PairDataModule(**{"scenes": 2} | changed))
    assert len(AttributionStore(tmp_path / "attributions")) == 2


def test_what_the_scores_follow_from_is_kept_with_them(tmp_path: Path):
    writer = ScoreWriter(tmp_path, [PointingGame()], show=False, controls=False)
    score(writer, data=PairDataModule(dataset=Scenes(1)))
    found = writer.store.provenance
    assert found.model == "embedded" and found.configuration["data"] == {
        "image": None, "text": None, "source": None, "dataset": "Scenes", "scenes": None,
        "scene_options": [0, None, None, "plain"],
    }  # fmt: skip
    assert found.configuration["metrics"] == ["image/PointingGame"] and found.configuration["precision"] == "32-true"
    assert found.configuration["controls"] is False and found.configuration["settings"]["method"] == "CentrePrior"
    assert score_writer._described(PairDataModule(scenes=2))["dataset"] is None


def test_it_measures_with_controls_and_shows_by_default(tmp_path: Path):
    writer = ScoreWriter(tmp_path)
    assert writer.controls and writer.show and writer.protocol == Protocol()


@pytest.mark.parametrize(("stage", "method"), [("predict", CentrePrior("embedded")), ("test", SimpleNamespace())])
def test_other_runs_are_left_alone(stage, method, tmp_path: Path):
    writer, trainer = ScoreWriter(tmp_path), SimpleNamespace(datamodule=None, precision="32-true", loggers=[])
    writer.setup(trainer, method, stage)
    writer.teardown(trainer, method, stage)
    assert writer.evaluators == {} and list(tmp_path.iterdir()) == []


def test_a_run_that_goes_wrong_leaves_the_folder_and_gathers_nothing(tmp_path: Path):
    writer, trainer = ScoreWriter(tmp_path), SimpleNamespace(datamodule=None, precision="32-true", loggers=[])
    writer.setup(trainer, CentrePrior("embedded"), "test")
    with pytest.raises(Exception, match="no other process"):
        FolderLock(tmp_path / "attributions").take(patience=-1)
    writer.teardown(trainer, None, "fit")
    assert not (tmp_path / "scores.parquet").exists()
    writer.on_exception(trainer, None, RuntimeError())
    FolderLock(tmp_path / "attributions").take(patience=-1)
