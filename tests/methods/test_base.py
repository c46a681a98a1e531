"""What every method keeps of its arguments, refuses, and hands on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.contracts import ContractError
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.data.loading import Reader
from m2ib_lightning.methods import base
from m2ib_lightning.methods.base import AttributionMethod, as_attributions
from m2ib_lightning.types import MODALITIES, Asked, BadPair
from tests.methods.made import scene_pairs


class Counting(AttributionMethod):
    """Gives the number of each patch and token."""

    unit, unrecorded = "1", ("backbone", "watcher")

    def __init__(self, backbone="embedded", modalities=MODALITIES, k_least=2, n=3, watcher=None, _own=1):
        super().__init__(backbone, modalities)
        self.given = None

    def attribute(self, batch):
        rows, columns = self.prepare().image.grid(batch)
        special = self.prepare().text.prefix(batch, "embeddings").special
        return self.given or as_attributions(
            batch,
            image=[torch.arange(rows * columns).reshape(rows, columns)] * len(batch.tokens),
            text=[torch.arange(special.shape[1])] * len(batch.tokens),
            special=special,
            score=torch.arange(len(batch.tokens)) / 4,
            unit=self.unit,
            settings=self.settings,
            steps=list(range(len(batch.tokens))),
        )


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def test_modalities_are_kept_in_their_order():
    assert Counting(modalities=["text", "image"]).modalities == ("image", "text") == Counting().modalities
    assert Counting(modalities=("text",)).modalities == ("text",)


@pytest.mark.parametrize(
    "modalities", [[], ["image", "image"], ["image", "words"], ["words"], ["image", "text", "image"]]
)
def test_what_is_no_choice_of_modalities_is_refused(modalities):
    with pytest.raises(ValueError) as refused:
        Counting(modalities=modalities)
    assert str(refused.value) == (
        f"Expected `modalities` to be one or both of 'image' and 'text' but got {modalities}. Remedy: name each once."
    )


def test_a_method_knows_its_pairs_stops_at_bad_ones_and_keeps_no_backbone_in_checkpoints():
    method = Counting()
    assert (method.control, method.on_error, method.strict_loading) == (False, "stop", False)
    assert method.allow_zero_length_dataloader_with_multiple_devices and not method._log_hyperparams
    checkpoint = {"state_dict": {"backbone.model.weight": 1, "reader.backbone.x": 2, "alpha": 3}}
    method.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"] == {"reader.backbone.x": 2, "alpha": 3}


def test_settings_are_the_arguments_that_a_result_depends_on(embedded):
    method = Counting(embedded, ["text"], n=5, watcher=print)
    assert method.settings == {
        "method": "Counting",
        "backbone": "embedded",
        "weights": embedded.weight_hash,
        "k_least": 2,
        "n": 5,
        "modalities": ["text"],
    }


def test_a_backbone_is_loaded_by_its_name_once_and_taken_as_it_is_when_it_is_given(embedded, monkeypatch):
    asked = []
    monkeypatch.setattr(base, "load_backbone", lambda name: (asked.append(name), embedded)[1])
    method = Counting("mine")
    assert method.backbone is None and method.prepare() is method.prepare() is embedded and asked == ["mine"]
    assert method.settings["backbone"] == "mine"
    assert Counting(embedded).prepare() is embedded and asked == ["mine"]


class Stage:
    """What a method looks at of a Trainer."""

    def __init__(self, precision, datamodule=None):
        self.precision, self.datamodule = precision, datamodule
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_weights_in_half_precision_are_refused_with_what_to_take_instead(precision, embedded):
    method, stage = Counting(embedded), Stage(precision)
    method._trainer = stage
    with pytest.raises(
        ValueError, match=rf"got --trainer.precision {precision}\. Remedy: --trainer.precision .*-mixed"
    ):
        method.setup("predict")


def test_under_a_trainer_a_method_takes_the_datas_word_for_bad_pairs_and_lends_it_the_model(embedded):
    method, data = Counting(embedded), PairDataModule(scenes=1, on_error="record")
    for stage in (Stage("bf16-mixed", data), Stage("32-true", object())):
        method._trainer = stage
        method.setup("predict")
        assert method.on_error == "record" and data.backbone is embedded


def test_bad_pairs_stay_in_their_places_or_stop_the_run(embedded):
    method, (one, two) = Counting(embedded), scene_pairs(2)
    bad, empty = BadPair("b", "", "b.png", "not there"), one._replace(id="e", text=" ")
    method.on_error = "record"
    batch = [one, bad, empty, two]
    for given in (batch, Reader(embedded, record=True)(batch)):
        found = method.predict_step(given, 0)
        assert [a.id for a in found] == [one.id, "b", "e", two.id]
        assert [isinstance(a, BadPair) for a in found] == [False, True, True, False] and found[1] is bad
    assert [type(a) for a in method.predict_step([bad], 0)] == [BadPair]
    method.on_error = "stop"
    with pytest.raises(ValueError, match="empty"):
        method.predict_step([one, empty], 0)


def test_a_test_step_hands_on_what_was_read_and_what_it_took(embedded, monkeypatch):
    clock = iter([1.0, 3.5])
    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = Counting(embedded).test_step(scene_pairs(2), 0)
    assert found["seconds"] == 2.5 and [a.id for a in found["attributions"]] == ["0", "1"]
    assert found["inputs"].pixel_values.shape == (2, 3, 96, 96)


def test_what_attribute_gives_is_held_against_the_batch_in_each_class_that_has_its_own(embedded):
    class Further(Counting):
        pass

    batch = embedded.preprocess_pairs(scene_pairs(2))
    for kind in (Counting, Further):
        method = kind(embedded)
        assert [a.steps for a in method.attribute(batch)] == [0, 1]
        method.given = method.attribute(batch)[:1]
        with pytest.raises(ContractError, match=kind.__name__):
            method.attribute(batch)


def test_a_result_has_what_its_pair_and_its_row_say_without_padding(embedded):
    pairs = [pair._replace(source=f"{pair.id}.png") for pair in scene_pairs(3)]
    batch = embedded.preprocess_pairs(pairs)
    found = Counting(embedded).attribute(batch)
    for i, (a, pair) in enumerate(zip(found, pairs, strict=True)):
        length = len(batch.tokens[i])
        assert (a.id, a.text, a.source, a.score, a.steps, a.unit) == (pair.id, pair.text, pair.source, i / 4, i, "1")
        assert a.tokens == list(batch.tokens[i]) and a.spans == list(batch.spans[i]) and a.view == batch.views[i]
        assert a.text_map.tolist() == list(range(length)) and a.text_map.dtype == np.float32
        assert a.special.tolist() == [True] + [False] * (length - 2) + [True] and a.image_map[1, 0] == 8
    special = torch.zeros(3, 20, dtype=torch.bool)
    nothing = as_attributions(
        batch, image=None, text=None, special=special, score=torch.zeros(3), unit="1", settings={}
    )
    assert all(a.image_map is None and a.text_map is None for a in nothing)


def test_an_explanation_with_nothing_further_asked_is_the_attribution(embedded):
    pair = scene_pairs(1)[0]
    assert pair.asked == Asked()
    (a,) = Counting(embedded).explain(embedded.preprocess_pairs([pair]))
    assert a.image_map[0, 1] == 1 and not a.phrases and not a.regions
