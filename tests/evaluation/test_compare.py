"""Several methods over the same pairs: what is written, what goes on, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from m2ib_lightning import M2IB, AttributionStore, PairDataModule, compare, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.callbacks import ScoreWriter
from m2ib_lightning.errors import UnsuitedModel
from m2ib_lightning.evaluation import Evaluator, Protocol
from m2ib_lightning.files import UNFINISHED
from m2ib_lightning.methods import Chefer, GradCAM, IntegratedGradients, Occlusion, RandomMap
from m2ib_lightning.metrics import ConfidenceDrop, PointingGame, TokenAUROC
from m2ib_lightning.store import StoreError
from m2ib_lightning.store.lock import FolderLock
from tests.checkpoints import random_siglip
from tests.evaluation.scenes import scene_pairs

CONTROLS = ["RandomMap", "CentrePrior", "UniformMap"]


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def scenes(count: int = 5, **arguments) -> PairDataModule:
    return PairDataModule(scenes=count, batch_size=2, **arguments)


def test_every_method_and_control_has_one_store_and_a_row_for_each_pair(embedded, tmp_path):
    found = compare([GradCAM(embedded)], scenes(), tmp_path, [PointingGame(), TokenAUROC()])
    assert found.methods == [*CONTROLS, "GradCAM"] and found.controls == CONTROLS
    for method in found.methods:
        store = AttributionStore(tmp_path / method / "attributions")
        own = found.frame[found.frame["method"] == method].set_index("id")
        assert len(store) == len(own) == 5
        for a in store:
            assert a.settings["method"] == method
            assert a.metrics == {name: own.loc[a.id, name] for name in ("image/PointingGame", "text/TokenAUROC")}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "pairs.parquet"), found.frame)


@pytest.mark.slow
def test_a_killed_comparison_does_only_the_pairs_that_are_missing(embedded, tmp_path, monkeypatch):
    asked = []
    relevance = GradCAM.relevance
    monkeypatch.setattr(GradCAM, "relevance", lambda s, o: (asked.append(len(o.clean)), relevance(s, o))[1])

    def run():
        return compare([GradCAM(embedded)], scenes(), tmp_path, protocol=Protocol(steps=3)).frame.drop(
            columns="seconds"
        )

    whole = run()
    assert asked == [2, 2, 2, 2, 1, 1]  # batches of 2, 2 and 1 pairs, both towers
    # Killed when the rows of the last batch were written and its attributions were not quite.
    last = sorted((tmp_path / "GradCAM" / "attributions").glob("part-*"))[-1]
    last.rename(last.with_name(f".{last.name}.1{UNFINISHED}"))
    asked.clear()
    again = run()
    assert asked == [1, 1]
    pd.testing.assert_frame_equal(whole, again, check_exact=False, atol=1e-5)
    assert not list(tmp_path.rglob(f".*{UNFINISHED}"))
    run()
    assert asked == [1, 1]


def test_two_comparisons_at_once_in_one_folder_are_refused_and_the_second_may_follow(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("m2ib_lightning.store.lock.PATIENCE", 0.1)
    other = FolderLock(tmp_path / "RandomMap" / "attributions")
    other.take()
    with pytest.raises(StoreError, match="no other process that writes"):
        compare([RandomMap(embedded)], scenes(), tmp_path, [PointingGame()])
    other.release()
    for _ in range(2):
        assert len(compare([RandomMap(embedded)], scenes(), tmp_path, [PointingGame()]).frame) == 15


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"method": Chefer("embedded", scale=2.0)}, "settings.scale"),
        ({"data": {"scene_seed": 3}}, "data.scene_options"),
        ({"count": 3}, "data.scenes"),
        ({"metrics": [TokenAUROC()]}, "metrics"),
        ({"protocol": Protocol(steps=3)}, "protocol.steps"),
        ({"precision": "bf16-mixed"}, "precision"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_comparison_in_the_same_folder_is_refused(embedded, tmp_path, changed, named):
    def run(method=None, count=2, data=None, metrics=None, protocol=None, precision="32-true"):
        method = method or Chefer(embedded)
        compare([method], scenes(count, **(data or {})), tmp_path, metrics or [PointingGame()], protocol, precision)

    run()
    with pytest.raises(ValueError, match=rf"{named}: .* there, .* now.*Remedy"):
        run(**changed)


def test_a_batch_is_preprocessed_once(embedded, tmp_path, monkeypatch):
    sizes = []
    preprocess = Backbone.preprocess_pairs
    monkeypatch.setattr(
        Backbone, "preprocess_pairs", lambda s, pairs: (sizes.append(len(pairs)), preprocess(s, pairs))[1]
    )
    compare([RandomMap(embedded)], scenes(3), tmp_path, [ConfidenceDrop(), PointingGame()])
    assert sizes == [2, 1] * 3  # for the method and for each of the two other controls


def test_a_class_that_stands_twice_needs_labels(embedded, tmp_path):
    two = [Chefer(embedded), Chefer(embedded, scale=1.0)]
    with pytest.raises(ValueError, match=r"got Chefer more than once.*Remedy: give labels"):
        compare(two, scenes(1), tmp_path)
    with pytest.raises(ValueError, match=r"labels that name a folder but got \['a/b'\]"):
        compare({"a/b": two[0]}, scenes(1), tmp_path)
    found = compare({"Chefer": two[0], "Chefer of the cosine": two[1]}, scenes(1), tmp_path, [PointingGame()])
    assert found.methods == [*CONTROLS, "Chefer", "Chefer of the cosine"]
    with pytest.raises(ValueError, match="at least one method"):
        compare([], scenes(1), tmp_path)


def test_methods_that_name_one_model_share_it_and_those_of_two_are_refused(embedded, tmp_path):
    methods = [GradCAM("embedded"), Occlusion("embedded")]
    compare(methods, scenes(1), tmp_path, [PointingGame()])
    assert methods[0].backbone is methods[1].backbone
    other = load_backbone("embedded")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    with pytest.raises(ValueError, match=r"Expected one model but Occlusion .*Remedy"):
        compare([GradCAM(embedded), Occlusion(other)], scenes(1), tmp_path / "two", [PointingGame()])


@pytest.mark.slow
@pytest.mark.parametrize("method", [M2IB, IntegratedGradients])
def test_bfloat16_explains_nearly_the_same_and_is_scored_in_float32(embedded, tmp_path, method):
    measured = [ConfidenceDrop("image")]
    for precision in ("32-true", "bf16-mixed"):
        found = compare([method(embedded)], scenes(2), tmp_path / precision, measured, precision=precision)
    exact, half = (
        list(AttributionStore(tmp_path / precision / method.__name__ / "attributions"))
        for precision in ("32-true", "bf16-mixed")
    )
    for a, b in zip(exact, half, strict=True):
        assert not np.array_equal(a.image_map, b.image_map)
        assert np.corrcoef(a.image_map.ravel(), b.image_map.ravel())[0, 1] > 0.999
        assert np.corrcoef(a.text_map[~a.special], b.text_map[~b.special])[0, 1] > 0.97
    data = scenes(2)
    data.setup("test")
    (batch,) = data.test_dataloader()
    rows = Evaluator(method(embedded), measured).score(embedded.preprocess_pairs(batch), half)
    scored = found.values(method.__name__, "image/ConfidenceDrop")
    assert scored.tolist() == pytest.approx([row["image/ConfidenceDrop"] for row in rows], abs=1e-5)


def test_seconds_are_those_of_one_pair(embedded, tmp_path):
    writer = ScoreWriter(tmp_path, [PointingGame()], controls=False)
    method, pairs = GradCAM(embedded), scene_pairs(3)
    inputs = embedded.preprocess_pairs(pairs)
    trainer = Trainer(logger=False, accelerator="cpu", barebones=True)
    writer.setup(trainer, method, "test")
    explained = {"inputs": inputs, "attributions": method.attribute(inputs), "seconds": 6.0}
    writer.on_test_batch_end(trainer, method, explained, pairs, 0)
    assert writer.comparison().frame["seconds"].tolist() == [2.0, 2.0, 2.0]


def test_the_mean_of_each_metric_reaches_the_loggers(embedded, tmp_path):
    writer = ScoreWriter(tmp_path, [PointingGame(), TokenAUROC()])
    logger = CSVLogger(tmp_path, name="logs", version="")
    trainer = Trainer(logger=logger, callbacks=[writer], accelerator="cpu", enable_progress_bar=False)
    trainer.test(GradCAM(embedded), datamodule=scenes(3), verbose=False)
    logged = pd.read_csv(tmp_path / "logs" / "metrics.csv").iloc[-1]
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    for metric in ("image/PointingGame", "text/TokenAUROC"):
        means = frame.groupby("method")[metric].mean()
        assert logged[metric] == pytest.approx(means["GradCAM"])
        assert logged[f"UniformMap/{metric}"] == pytest.approx(means["UniformMap"])


def test_text_alone_has_no_values_of_the_image(embedded, tmp_path):
    found = compare([GradCAM(embedded, modalities=["text"])], scenes(1), tmp_path, protocol=Protocol(steps=2))
    row = found.frame.set_index("method").loc["GradCAM"]
    assert all(np.isnan(row[m.name]) == (m.modality == "image") for m in found.metrics)


def test_a_method_that_cannot_explain_the_model_is_left_out_and_said(tmp_path):
    siglip = load_backbone(str(random_siglip(tmp_path / "siglip")))
    methods = [Chefer(siglip), GradCAM(siglip)]
    with pytest.warns(UserWarning, match=r"Chefer is left out\. Expected .*token.*Remedy"):
        found = compare(methods, scenes(2), tmp_path / "both", [PointingGame()])
    assert found.methods == [*CONTROLS, "GradCAM"]
    assert list(found.left_out) == ["Chefer"] and "Remedy" in found.left_out["Chefer"]
    with pytest.raises(UnsuitedModel, match="Remedy"):
        compare([Chefer(siglip)], scenes(2), tmp_path / "alone", [PointingGame()])
