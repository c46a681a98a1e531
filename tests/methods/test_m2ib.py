import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.contracts import ContractError
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.losses import Bottlenecked, LossTerm
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

    from m2ib_lightning.losses import Compression, Relevance

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
