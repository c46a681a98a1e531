"""Several methods over the same pairs, and what was found of each."""

import logging
import math
import warnings

import pandas as pd
import pytest
from lightning.pytorch import Callback

from m2ib_lightning import AttributionStore, PairDataModule, compare, load_backbone
from m2ib_lightning.errors import UnsuitedModel
from m2ib_lightning.evaluation import Comparison, Protocol
from m2ib_lightning.methods import CentrePrior, RandomMap, UniformMap
from m2ib_lightning.metrics import PointingGame, TokenAUROC


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


class _Unsuited(UniformMap):
    """A method that no model suits."""

    control = False

    def attribute(self, batch):
        raise UnsuitedModel("Expected another model. Remedy: take it.")


class _Own(UniformMap):
    """A method that is no control."""

    control = False


@pytest.fixture(scope="module")
def found(embedded, tmp_path_factory):
    """What a comparison of one's own method with one that no model suits finds, prints and warns of."""
    folder = tmp_path_factory.mktemp("compared")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = compare(
            {"mine": _Own("embedded"), "none": _Unsuited("embedded"), "CentrePrior": CentrePrior(embedded)},
            PairDataModule(scenes=3, batch_size=2), folder, [PointingGame()],
        )  # fmt: skip
    return made, folder, seen


def test_each_method_is_called_by_its_label_behind_the_controls_that_are_not_among_them(found):
    made, folder, _ = found
    assert made.methods == ["RandomMap", "UniformMap", "mine", "CentrePrior"]
    assert made.controls == ["RandomMap", "UniformMap", "CentrePrior"]
    assert made.folder == folder and made.protocol == Protocol()
    assert [metric.name for metric in made.metrics] == ["image/PointingGame"]
    whole = pd.read_parquet(folder / "pairs.parquet")
    assert list(whole.index) == list(range(12)) and whole.equals(made.frame)
    for method in made.methods:
        assert len(AttributionStore(folder / method / "attributions")) == 3


def test_nothing_but_results_is_written(found):
    _, folder, _ = found
    assert {path.name for path in folder.iterdir()} == {"RandomMap", "UniformMap", "CentrePrior", "mine", "none",
                                                        "pairs.parquet"}  # fmt: skip
    assert {path.name for path in (folder / "mine").iterdir()} >= {"attributions", "scores.parquet"}


def test_a_method_that_no_model_suits_is_left_out_with_a_warning_at_the_line_of_the_caller(found):
    _, _, seen = found
    (said,) = (w for w in seen if "left out" in str(w.message))
    assert str(said.message) == "none is left out. Expected another model. Remedy: take it."
    assert said.filename == __file__


def test_where_no_method_suits_the_model_that_is_said(embedded, tmp_path, capsys):
    class _AlsoUnsuited(_Unsuited):
        pass

    log = logging.getLogger("lightning.pytorch")
    before = log.level
    with pytest.raises(UnsuitedModel, match="Expected another model"):
        compare([_Unsuited(embedded), _AlsoUnsuited(embedded)], PairDataModule(scenes=1), tmp_path, [PointingGame()])
    assert capsys.readouterr().out == "" and log.level == before


def test_callbacks_show_how_far_each_method_is_and_the_trainer_is_as_it_was_asked_for(embedded, tmp_path):
    seen = []

    class Shown(Callback):
        def __init__(self, label):
            self.label = label

        def on_test_start(self, trainer, pl_module):
            seen.append((self.label, trainer.precision, trainer.loggers, trainer.default_root_dir))

    compare(
        [RandomMap(embedded)], PairDataModule(scenes=1), tmp_path, [PointingGame()], precision="bf16-mixed",
        progress=lambda label: [Shown(label)], accelerator="cpu",
    )  # fmt: skip
    labels = ["CentrePrior", "UniformMap", "RandomMap"]
    assert seen == [(label, "bf16-mixed", [], str(tmp_path)) for label in labels]


@pytest.mark.parametrize("label", ["", "a/b", ".hidden", ".."])
def test_a_label_that_names_no_folder_is_refused(label, embedded, tmp_path):
    with pytest.raises(ValueError, match="Expected labels that name a folder but got"):
        compare({label: RandomMap(embedded), "good": RandomMap(embedded)}, PairDataModule(scenes=1), tmp_path)


def test_two_methods_of_one_class_need_labels(embedded, tmp_path):
    both = [RandomMap(embedded), RandomMap(embedded), UniformMap(embedded)]
    with pytest.raises(ValueError, match="different classes but got RandomMap more than once"):
        compare(both, PairDataModule(scenes=1), tmp_path)
    with pytest.raises(ValueError, match="Expected at least one method but got none"):
        compare({}, PairDataModule(scenes=1), tmp_path)


def test_means_are_those_of_the_pairs_with_a_value_and_a_controls_is_behind_its_label(tmp_path):
    rows = [
        {"method": method, "id": str(i), "image/PointingGame": value, "text/TokenAUROC": math.nan}
        for method, values in (("mine", (1.0, 0.5, math.nan)), ("RandomMap", (0.0, 0.25, 0.5)))
        for i, value in enumerate(values)
    ]
    made = Comparison(pd.DataFrame(rows), [PointingGame(), TokenAUROC()], tmp_path, controls=["RandomMap"])
    assert made.means() == {"image/PointingGame": 0.75, "RandomMap/image/PointingGame": 0.25}
    assert made.methods == ["mine", "RandomMap"] and made.protocol == Protocol()
    values = made.values("RandomMap", "image/PointingGame")
    assert list(values.items()) == [("0", 0.0), ("1", 0.25), ("2", 0.5)]
