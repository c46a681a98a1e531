import copy
import inspect
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.contracts import ContractError
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.losses import (
    Agreement,
    Bottlenecked,
    Compression,
    LossTerm,
    Relevance,
    ScheduledCompression,
    Sparsity,
)
from m2ib_lightning.methods import M2IB, RELEASED
from tests.checkpoints import random_clip
from tests.methods import reference
from tests.methods.made import FAST, assert_same_maps, explain, quiet_trainer, scene_pairs

FEW_STEPS = {"steps": 6, "lr": 1.5, "initial_alpha": 3.0}
SETTINGS = [pytest.param({}, id="calibrated"), pytest.param(RELEASED, id="released")]


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("modality", ["image", "text"])
def test_maps_are_those_of_a_slow_float64_reference(embedded, setting, modality):
    pair = scene_pairs(3)[2]
    method = M2IB(embedded, **{**setting, "noise_samples": 2})
    batch = embedded.preprocess_pairs([pair])
    ours = method.attribute(batch)[0]

    tower = method.towers[modality]
    layer = -1 if tower.layer == "embeddings" else tower.layer
    model = copy.deepcopy(embedded.model).double()
    inputs = {"pixel_values": batch.pixel_values.double(), "input_ids": batch.input_ids}
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    states = out[f"{'vision' if modality == 'image' else 'text'}_model_output"].hidden_states[layer + 1][0]
    other = (out.text_embeds if modality == "image" else out.image_embeds)[0]
    width, length = states.shape[1], embedded.tower(modality).length
    noise = [method.noise(step, modality, length, width, torch.device("cpu")).double() for step in range(method.steps)]
    held = tower.prior.read_mean.double() if tower.read_out == "mean" and layer >= 0 else None
    read = 0 if modality == "image" else len(states) - 1
    expected = reference.fit(
        model, modality, states, read, other, noise, layer=layer, beta=tower.beta, lr=method.lr, start=tower.start,
        mean=tower.prior.mean.double(), std=tower.prior.std.double(), held=held,
    )  # fmt: skip
    found = ours.image_map.ravel() if modality == "image" else ours.text_map
    expected = (expected[1:] if modality == "image" else expected).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * expected.max()


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("size", [1, 3])
def test_a_pair_is_explained_the_same_in_any_batch(embedded, setting, size):
    pairs = scene_pairs(8)
    whole = explain(embedded, pairs, **setting)
    order = np.random.default_rng(0).permutation(8).tolist()
    for start in range(0, 8, size):
        some = order[start : start + size]
        for index, result in zip(some, explain(embedded, [pairs[i] for i in some], **setting), strict=True):
            assert_same_maps(result, whole[index])


def test_fit_and_predict_give_the_same_maps(embedded):
    data = PairDataModule(scenes=5, batch_size=2)
    trainer = quiet_trainer(max_epochs=10)
    fitted = M2IB(embedded)
    trainer.fit(fitted, data)
    predicted = quiet_trainer().predict(M2IB(embedded), PairDataModule(scenes=5, batch_size=3))
    # A prediction puts texts of similar length into one batch.
    flat = sorted((a for batch in predicted for a in batch), key=lambda a: a.id)
    assert [a.id for a in fitted.attributions()] == [a.id for a in flat]
    for a, b in zip(fitted.attributions(), flat, strict=True):
        assert_same_maps(a, b)
        assert a.steps == b.steps == 10
        np.testing.assert_allclose(a.history["loss/total"], b.history["loss/total"], atol=1e-4)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(embedded):
    pairs = scene_pairs(1)
    first, again, other = (explain(embedded, pairs, seed=seed, **FAST)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image_map, again.image_map)
    assert np.abs(first.image_map - other.image_map).max() > 0


def test_one_modality_alone_is_as_with_the_other(embedded):
    pairs = scene_pairs(2)
    both = explain(embedded, pairs, **FAST)
    image = explain(embedded, pairs, modalities=["image"], **FAST)
    text = explain(embedded, pairs, modalities=["text"], **FAST)
    for b, i, t in zip(both, image, text, strict=True):
        np.testing.assert_allclose(i.image_map, b.image_map, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(t.text_map, b.text_map, rtol=1e-4, atol=1e-4)
        assert i.text_map is None and t.image_map is None and np.isnan(i.text_score)


def test_the_backbone_is_not_changed_by_success_or_by_an_exception(embedded):
    class Broken(LossTerm):
        def forward(self, tower: Bottlenecked) -> torch.Tensor:
            raise ArithmeticError

    before = {name: value.clone() for name, value in embedded.model.state_dict().items()}
    quiet_trainer(max_epochs=2).fit(M2IB(embedded), PairDataModule(scenes=2))
    with pytest.raises(ContractError, match="Broken to return a value but got ArithmeticError"):
        explain(embedded, scene_pairs(1), loss_terms=[Broken()])
    with pytest.raises(ContractError, match="Broken to return a value but got ArithmeticError"):
        quiet_trainer(max_epochs=2).fit(M2IB(embedded, loss_terms=[Broken()]), PairDataModule(scenes=1))
    for name, value in embedded.model.state_dict().items():
        assert torch.equal(value, before[name])
    for module in embedded.model.modules():
        assert not module.training and not module._forward_hooks and not module._backward_hooks
    assert all(p.grad is None and not p.requires_grad for p in embedded.model.parameters())


def test_a_term_of_the_users_own_is_weighed_and_kept_in_the_history(embedded):
    class MaskMean(LossTerm):
        def forward(self, tower: Bottlenecked) -> torch.Tensor:
            return tower.lambda_.mean((1, 2))

    result = explain(
        embedded, scene_pairs(1), modalities=["image"], loss_terms=[Compression(), Relevance(), MaskMean(0.5)], **FAST
    )[0]
    h = result.history
    expected = 3.0 * h["image/compression"] - h["image/relevance"] + 0.5 * h["image/maskmean"]
    np.testing.assert_allclose(h["loss/total"], expected, rtol=1e-5)


def test_the_released_setting_is_what_the_released_code_and_the_paper_say(embedded):
    method = M2IB(embedded, **RELEASED)
    method.prepare()
    fit = dict(steps=10, lr=1.0, noise_samples=10, initial_alpha=5.0, prior="unit", antithetic=False)
    assert {name: method.settings[name] for name in fit} == fit
    assert method.towers["image"].beta == method.towers["text"].beta == 0.1


def test_compression_falls_while_relevance_stays(embedded):
    for result in explain(embedded, scene_pairs(10)[::3]):  # one object named; of three, the default beta keeps less
        for modality in ("image", "text"):
            compression = result.history[f"{modality}/compression"]
            assert compression[-1] < 0.1 * compression[0]
            assert result.history[f"{modality}/relevance"][-1] > 0.4 * result.score


@pytest.mark.slow
def test_few_steps_bring_the_loss_as_low_as_many_small_ones_that_start_with_open_masks(embedded):
    pairs = scene_pairs(12)
    few, many = explain(embedded, pairs, **FEW_STEPS), explain(embedded, pairs)
    assert sum(a.verdict == "ok" for a in few) >= sum(a.verdict == "ok" for a in many) - 1
    for modality, beta in (("image", 3.0), ("text", 0.1)):
        ends = [
            [beta * a.history[f"{modality}/compression"][-1] - a.history[f"{modality}/relevance"][-1] for a in found]
            for found in (few, many)
        ]
        assert np.mean(ends[0]) < np.mean(ends[1]) + 0.1
    alike = [np.corrcoef(a.image_map.ravel(), b.image_map.ravel())[0, 1] for a, b in zip(few, many, strict=True)]
    assert np.mean(alike) > 0.95


def test_explaining_works_inside_inference_mode(embedded):
    with torch.inference_mode():
        inside = explain(embedded, scene_pairs(1), **FAST)[0]
    assert_same_maps(inside, explain(embedded, scene_pairs(1), **FAST)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` to be at least 1"),
        ({"noise_samples": 0}, "`noise_samples` to be at least 1"),
        ({"image_beta": -1.0}, "`image_beta` to be at least 0"),
        ({"text_beta": float("nan")}, "`text_beta` to be at least 0"),
        ({"lr": 0.0}, "`lr` to be above 0"),
        ({"modalities": ["sound"]}, "one or both of 'image' and 'text'"),
        ({"modalities": []}, "one or both of 'image' and 'text'"),
        ({"read_out": "melted"}, "`read_out` to be one of"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        M2IB("embedded", **arguments)


def test_a_layer_out_of_range_is_refused_before_anything_is_computed(embedded):
    with pytest.raises(ValueError, match=r"`image_layer` to be 'embeddings' or a block in 0\.\.6"):
        M2IB(embedded, image_layer=7).prepare()


@pytest.mark.slow
def test_any_layer_and_prior_works_on_a_random_model(tmp_path):
    backbone = load_backbone(str(random_clip(tmp_path)))
    for image_layer, text_layer in (("embeddings", 0), (2, 1), (0, "embeddings")):
        for prior in ("unit", "measured"):
            for read_out in ("bottleneck", "mean", "clean"):
                result = explain(
                    backbone, scene_pairs(2), image_layer=image_layer, text_layer=text_layer, prior=prior,
                    read_out=read_out, **FAST,
                )[1]  # fmt: skip
                assert result.image_map.shape == (4, 4) and np.isfinite(result.image_map).all()
                assert np.isfinite(result.text_map).all() and (result.text_map >= 0).all()


def test_checkpoints_leave_the_backbone_out(embedded, tmp_path):
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(M2IB(embedded), PairDataModule(scenes=2))
    trainer.save_checkpoint(tmp_path / "masks.ckpt")
    state = torch.load(tmp_path / "masks.ckpt", weights_only=False)["state_dict"]
    assert state and all(name.startswith("fits.") and name.endswith(("alpha", "_extra_state")) for name in state)


def test_results_before_a_fit_are_refused(embedded):
    with pytest.raises(RuntimeError, match=r"call Trainer\.fit first"):
        M2IB(embedded).attributions()


def test_no_warning_is_raised_by_explaining(embedded):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(embedded, scene_pairs(2), **FAST)


@pytest.mark.slow
def test_compiled_towers_give_the_same_maps(embedded, monkeypatch):
    compiled = partial(torch.compile, backend="aot_eager")  # as "inductor", but for the code that it makes
    monkeypatch.setattr(torch, "compile", compiled)
    pairs = scene_pairs(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = explain(embedded, pairs, compile=True, **FAST)
    for a, b in zip(ours, explain(embedded, pairs, **FAST), strict=True):
        assert_same_maps(a, b)


def test_what_is_not_said_is_as_documented(embedded):
    method = M2IB(embedded)
    usual = {
        "steps": 10, "noise_samples": 2, "lr": 1.0, "initial_alpha": 5.0, "reader": None, "prior": "measured",
        "read_out": "mean", "tolerance": 1e-3, "patience": 3, "noise_chunk": None, "antithetic": True,
        "compile": False, "graphs": True, "seed": 0, "keep": None, "image_beta": 3.0, "text_beta": 0.1,
    }  # fmt: skip
    known = inspect.signature(M2IB).parameters
    assert {name: known[name].default for name in usual} == usual
    assert method.betas == {"image": 3.0, "text": 0.1} and not method.automatic_optimization
    assert not method.compile_towers and method.graphs and method.noise.antithetic
    assert [(type(term), term.weight) for term in method.loss_terms] == [(Compression, 1.0), (Relevance, 1.0)]
    assert RELEASED == {
        "image_beta": 0.1, "text_beta": 0.1, "steps": 10, "lr": 1.0, "noise_samples": 10, "initial_alpha": 5.0,
        "prior": "unit", "read_out": "bottleneck", "antithetic": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "least", "less"),
    [
        ("steps", 1, 0),
        ("noise_samples", 1, 0),
        ("image_beta", 0, -0.1),
        ("text_beta", 0, -0.1),
        ("tolerance", 0, -1e-9),
        ("patience", 1, 0),
        ("noise_chunk", 1, 0),
    ],
)
def test_the_least_that_is_documented_is_allowed_and_less_is_not(name, least, less):
    M2IB(**{name: least})
    with pytest.raises(ValueError, match=f"`{name}` to be at least {least} but got {less}"):
        M2IB(**{name: less})


def test_a_rate_is_above_0_and_a_share_to_keep_at_most_all():
    assert (M2IB(lr=0.01).lr, M2IB(keep=1.0).keep, M2IB(keep=0.01).keep, M2IB(tolerance=None).tolerance) == (
        0.01, 1.0, 0.01, None
    )  # fmt: skip
    for lr in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"`lr` to be above 0 but got {lr}"):
            M2IB(lr=lr)


@pytest.mark.parametrize("terms", [[Compression()], [Relevance()], [Sparsity(), Relevance()]])
def test_a_share_to_keep_needs_something_to_trade(terms):
    named = ", ".join(type(term).__name__ for term in terms)
    with pytest.raises(
        ValueError, match=rf"Relevance and Compression among `loss_terms` with keep=0.9 but got {named}\."
    ):
        M2IB(keep=0.9, loss_terms=terms)
    assert len(M2IB(loss_terms=terms).loss_terms) == len(terms)


def test_terms_have_names_of_their_own_and_see_what_is_explained():
    with pytest.raises(ValueError, match=r"of different names but got 'compression' more than once"):
        M2IB(loss_terms=[Compression(), Relevance(), ScheduledCompression()])
    with pytest.raises(ValueError, match=r"both modalities for Agreement but got \['image'\]"):
        M2IB(modalities=["image"], loss_terms=[Relevance(), Agreement()])
    assert len(M2IB(loss_terms=[Relevance(), Agreement()]).loss_terms) == 2


def test_settings_are_those_of_the_towers_and_terms_and_betas_only_where_they_are_given(embedded):
    method = M2IB(embedded, ["text"], loss_terms=[Relevance(), Compression(0.5)], steps=4)
    method.prepare()
    made = method.settings
    assert (made["text_layer"], made["steps"], made["loss_terms"]) == ("embeddings", 4, ["Relevance", "Compression"])
    assert made["image_beta"] == 3.0 and made["text_beta"] == 0.1 and made["modalities"] == ["text"]
    assert not {"noise_chunk", "compile", "graphs", "optimizer", "backbone_name"} & set(made)
    assert method.setting == {
        "weights": embedded.weight_hash, "read_out": "mean", "text_layer": "embeddings", "text_beta": 0.1,
        "loss_terms": ["Relevance 1", "Compression 0.5"],
    }  # fmt: skip
    keeping = M2IB(embedded, keep=0.9)
    keeping.prepare()
    assert keeping.settings["keep"] == 0.9 and not {"image_beta", "text_beta"} & set(keeping.settings)


def test_a_fit_logs_means_and_its_steps_and_ends_where_every_pair_is_done(embedded):
    method = M2IB(embedded, modalities=["text"], noise_samples=1, antithetic=False)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, PairDataModule(scenes=3, batch_size=2))
    logged, found = trainer.callback_metrics, method.attributions()
    assert method.steps == 2 and float(logged["step"]) == 2.0 and float(logged["pairs/running"]) == 3
    for name in ("loss/total", "text/relevance"):
        # Lightning weighs the batches of two and of one by their sizes.
        assert float(logged[name]) == pytest.approx(np.mean([a.history[name][-1] for a in found]), rel=1e-4)
    assert set(trainer.progress_bar_metrics) == {"loss/total"}
    assert [(a.id, a.steps, a.stop_reason) for a in found] == [(a.id, 2, "max_steps") for a in found]
    method = M2IB(embedded, modalities=["text"], tolerance=100.0, patience=1, noise_samples=1, antithetic=False)
    trainer = quiet_trainer(max_epochs=9)
    trainer.fit(method, PairDataModule(scenes=2, batch_size=1))
    assert trainer.current_epoch == 2
    assert [(a.steps, a.stop_reason, len(a.history["loss/total"])) for a in method.attributions()] == [
        (1, "converged", 2)
    ] * 2


def test_pairs_that_stop_early_keep_their_places_and_what_they_were_then(embedded):
    class Falling(LossTerm):
        """Stays for the first pair and falls from step to step for the second."""

        steps = 0

        def forward(self, tower):
            Falling.steps += 1
            values = torch.tensor([0.0, -5.0 * Falling.steps])[-len(tower.alpha) :]
            return values + 0 * tower.lambda_.mean((1, 2))

    arguments = {"modalities": ["image"], "loss_terms": [Relevance(0.0), Falling()], "steps": 5, "noise_samples": 1}
    found = explain(embedded, scene_pairs(2), tolerance=0.1, patience=2, antithetic=False, **arguments)
    assert [(a.id, a.steps, a.stop_reason) for a in found] == [("0", 2, "converged"), ("1", 5, "max_steps")]
    assert [len(a.history["loss/total"]) for a in found] == [3, 5]


def test_steps_are_replayed_on_a_gpu_alone_and_only_where_weights_are_fixed_and_masks_open_alike(embedded, monkeypatch):
    moving = [ScheduledCompression(), Relevance()]
    arguments = [{}, {"graphs": False}, {"keep": 0.9}, {"loss_terms": moving}]
    methods = [M2IB(embedded, **some) for some in arguments]
    assert [method._replays() for method in methods] == [False] * 4
    monkeypatch.setattr(M2IB, "prepare", lambda self: SimpleNamespace(device=torch.device("cuda")))
    assert [method._replays() for method in methods] == [True, False, False, False]
