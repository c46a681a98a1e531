import copy

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.losses import Agreement, Bottlenecked, Compression, LossTerm, Relevance, ScheduledCompression
from m2ib_lightning.methods import M2IB, RELEASED
from tests.methods.made import FAST, assert_same_maps, explain, quiet_trainer, scene_pairs


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


class Trouble(LossTerm):
    """Adds to the loss of the pair whose image is `number` what `values` says, step by step."""

    def __init__(self, clean: torch.Tensor, values: list[float]) -> None:
        super().__init__()
        self.target, self.values, self.calls = clean, values, 0

    def forward(self, tower: Bottlenecked) -> torch.Tensor:
        value = self.values[min(self.calls, len(self.values) - 1)]
        self.calls += 1
        chosen = (tower.clean - self.target).abs().amax(1) < 1e-4
        return torch.where(chosen, value, 0.0) * (1 + tower.alpha.mean((1, 2)))


def troubled(backbone: Backbone, pairs, which: int, values: list[float], **arguments) -> M2IB:
    """A method that explains images alone and whose pair `which` gets into trouble."""
    clean = backbone.embed("image", backbone.preprocess_pairs([pairs[which]]))
    terms = [Compression(), Relevance(), Trouble(clean, values)]
    return M2IB(backbone, modalities=["image"], loss_terms=terms, noise_samples=2, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("setting", [{}, RELEASED])
def test_noise_in_chunks_gives_the_same_maps(embedded, chunk, setting):
    pairs = scene_pairs(2)
    whole = explain(embedded, pairs, noise_chunk=5, **{**setting, "noise_samples": 5})
    parts = explain(embedded, pairs, noise_chunk=chunk, **{**setting, "noise_samples": 5})
    for a, b in zip(parts, whole, strict=True):
        assert_same_maps(a, b)


@pytest.mark.slow
def test_memory_that_runs_out_is_asked_for_less(embedded, monkeypatch):
    suffix = embedded.image.suffix

    def small(states, hidden, layer):
        if len(states) > 2:
            raise torch.OutOfMemoryError("no more")
        return suffix(states, hidden, layer)

    expected = explain(embedded, scene_pairs(2), noise_samples=5)
    monkeypatch.setattr(embedded.image, "suffix", small)
    with pytest.warns(UserWarning, match="going on with 2 noise samples"):
        found = explain(embedded, scene_pairs(2), noise_samples=5)
    for a, b in zip(found, expected, strict=True):
        assert_same_maps(a, b)


def test_memory_for_not_even_one_sample_is_said_with_the_remedy(embedded, monkeypatch):
    def never(states, hidden, layer):
        raise torch.OutOfMemoryError("no more")

    fit = M2IB(embedded, **FAST).new_fit(embedded.preprocess_pairs(scene_pairs(1)))
    fit.towers = {modality: tower._replace(suffix=never) for modality, tower in fit.towers.items()}
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="smaller batch_size"):
        fit.accumulate()


@pytest.mark.parametrize(
    ("values", "reason", "steps"),
    [
        ([0.0, 0.0, 1e4], "diverged", 2),
        ([0.0, 0.0, float("nan")], "non_finite", 2),
        ([0.0, float("inf")], "non_finite", 1),
    ],
)
def test_a_pair_in_trouble_stops_with_its_reason_and_touches_no_other(embedded, values, reason, steps):
    pairs = scene_pairs(3)
    alone = explain(embedded, [pairs[0], pairs[2]], modalities=["image"], noise_samples=2)
    method = troubled(embedded, pairs, 1, values)
    found = method.attribute(embedded.preprocess_pairs(pairs))
    assert (found[1].stop_reason, found[1].steps) == (reason, steps)
    assert (found[1].image_map is None) == (reason == "non_finite")
    assert found[1].verdict in {"diverged": ("not_converged", "similarity_lost"), "non_finite": ("not_finite",)}[reason]
    assert np.isfinite(found[1].history["loss/total"][:-1]).all()
    for a, b in zip((found[0], found[2]), alone, strict=True):
        assert (a.stop_reason, a.steps) == (b.stop_reason, b.steps)
        np.testing.assert_allclose(a.image_map, b.image_map, rtol=1e-3, atol=1e-3)


def test_the_masks_of_a_stopped_pair_are_its_last_finite_ones(embedded):
    pairs = scene_pairs(2)
    method = troubled(embedded, pairs, 1, [0.0, 0.0, 0.0, float("nan")])
    fit = method.new_fit(embedded.preprocess_pairs(pairs))
    optimizer = method.new_optimizer(fit.parameters())
    for _ in range(method.steps):
        fit.step(optimizer)
    # The loss of the masks after three updates is not finite: those after two are kept.
    shorter = explain(embedded, [pairs[1]], modalities=["image"], noise_samples=2, steps=2)[0]
    np.testing.assert_allclose(fit.maps("image")[1], shorter.image_map, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("made", [3, 4, 5])
def test_a_fit_with_a_stopped_pair_goes_on_from_its_state_as_if_it_had_not_been_interrupted(embedded, made):
    pairs, values = scene_pairs(2), [0.0, 0.0, 0.0, float("nan")]  # no finite loss at the fourth step

    def fitted(calls: int):
        method = troubled(embedded, pairs, 1, values)
        method.loss_terms[2].calls = calls
        fit = method.new_fit(embedded.preprocess_pairs(pairs))
        return fit, method.new_optimizer(fit.parameters())

    whole, optimizer = fitted(0)
    for step in range(6):
        if step == made:
            state, moments = copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
        whole.step(optimizer)
    again, optimizer = fitted(made)
    again.load_state_dict(state)
    optimizer.load_state_dict(moments)
    for _ in range(made, 6):
        again.step(optimizer)
    for a, b in zip(again.maps("image"), whole.maps("image"), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again.stopping.updates, whole.stopping.updates)


@pytest.mark.slow
def test_a_converged_pair_keeps_its_masks_and_the_others_go_on(embedded):
    pairs = scene_pairs(6)
    arguments = {"modalities": ["image"], "steps": 40, "noise_samples": 4, "tolerance": 0.02}
    found = explain(embedded, pairs, **arguments)
    steps = [a.steps for a in found]
    assert {a.stop_reason for a in found} == {"converged"} and len(set(steps)) > 1
    for a, pair in zip(found, pairs, strict=True):
        alone = explain(embedded, [pair], **arguments)[0]
        assert (alone.steps, len(alone.history["loss/total"])) == (a.steps, a.steps + 1)
        # 30 steps amplify rounding more than 10 do.
        assert_same_maps(a, alone, tolerance=1e-2)


def test_pairs_that_are_done_cost_no_more(embedded, monkeypatch):
    sizes = []
    suffix = embedded.image.suffix
    monkeypatch.setattr(embedded.image, "suffix", lambda z, *rest: sizes.append(z.shape[1]) or suffix(z, *rest))
    explain(embedded, scene_pairs(6), modalities=["image"], steps=40, noise_samples=4, tolerance=0.02)
    assert sizes[1] == 6 and sizes[-1] < 6 and sizes[1:] == sorted(sizes[1:], reverse=True)


@pytest.mark.slow
def test_fit_stops_pairs_as_predict_does(embedded):
    arguments = {"modalities": ["image"], "noise_samples": 4, "tolerance": 0.02, "steps": 40}
    fitted = M2IB(embedded, **arguments)
    quiet_trainer(max_epochs=40).fit(fitted, PairDataModule(scenes=5, batch_size=3))
    predicted = quiet_trainer().predict(M2IB(embedded, **arguments), PairDataModule(scenes=5, batch_size=5))[0]
    for a, b in zip(fitted.attributions(), predicted, strict=True):
        assert (a.steps, a.stop_reason) == (b.steps, b.stop_reason)
        assert_same_maps(a, b, tolerance=1e-2)


def checkpointed(folder, embedded, epochs: int, resume: bool) -> M2IB:
    from lightning.pytorch.callbacks import ModelCheckpoint

    method = M2IB(embedded, noise_samples=2)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, save_last=True, every_n_epochs=1)], max_epochs=epochs,
    )  # fmt: skip
    data = PairDataModule(scenes=3, batch_size=2)
    trainer.fit(method, data, ckpt_path=str(folder / "last.ckpt") if resume else None)
    return method


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_resumed_fit_ends_bit_equal_to_one_that_was_not_interrupted(embedded, tmp_path, stop):
    whole = checkpointed(tmp_path / "whole", embedded, 10, resume=False).attributions()
    checkpointed(tmp_path / "part", embedded, stop, resume=False)
    resumed = checkpointed(tmp_path / "part", embedded, 10, resume=True).attributions()
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(a.image_map, b.image_map)
        np.testing.assert_array_equal(a.text_map, b.text_map)
        np.testing.assert_array_equal(a.history["loss/total"], b.history["loss/total"])
        assert a.steps == b.steps == 10


def test_antithetic_noise_is_its_own_negative():
    from m2ib_lightning.bottleneck import NoiseBank

    noise = NoiseBank(0, 5, antithetic=True)(0, "image", 4, 3, torch.device("cpu"))
    torch.testing.assert_close(noise[3:], -noise[:2])
    assert noise.shape == (5, 4, 3)


def test_low_precision_gives_nearly_the_same_maps_and_keeps_masks_in_float32(embedded):
    precision = "bf16-mixed"
    full = quiet_trainer().predict(M2IB(embedded), PairDataModule(scenes=4))[0]
    low = quiet_trainer(precision=precision).predict(M2IB(embedded), PairDataModule(scenes=4))[0]
    for a, b in zip(low, full, strict=True):
        assert np.corrcoef(a.image_map.ravel(), b.image_map.ravel())[0, 1] > 0.99
        assert np.corrcoef(a.text_map, b.text_map)[0, 1] > 0.99
    fitted = M2IB(embedded)
    quiet_trainer(precision=precision, max_epochs=2).fit(fitted, PairDataModule(scenes=1))
    assert fitted.mask_fits[0].bottleneck("image").alpha.dtype == torch.float32


def test_half_precision_gradients_do_not_vanish(embedded):
    pairs = scene_pairs(1)
    with torch.autocast("cpu", torch.float16):
        half = explain(embedded, pairs, **FAST)[0]
    full = explain(embedded, pairs, **FAST)[0]
    assert np.corrcoef(half.image_map.ravel(), full.image_map.ravel())[0, 1] > 0.98


def test_statistics_are_those_of_the_masks(embedded):
    fit = M2IB(embedded).new_fit(embedded.preprocess_pairs(scene_pairs(2)))
    bottleneck = fit.bottleneck("text")
    torch.nn.init.normal_(bottleneck.alpha)
    found = fit.statistics()
    nats = [bottleneck.capacity()[b].sum() / bottleneck.open[b].sum() for b in range(2)]
    closed = [(bottleneck.lambda_[b][bottleneck.open[b]] < 0.5).float().mean() for b in range(2)]
    assert found["text/nats_per_token"] == pytest.approx(float(sum(nats) / 2), rel=1e-5)
    assert found["text/bits_per_token"] == pytest.approx(float(sum(nats) / 2) / np.log(2), rel=1e-5)
    assert found["text/closed"] == pytest.approx(float(sum(closed) / 2), rel=1e-5)
    assert found["pairs/running"] == 2


def test_a_weight_that_moves_is_kept_and_multiplies_the_term_at_each_step(embedded):
    terms = [ScheduledCompression(start=0.5, steps=2), Relevance()]
    (a,) = explain(embedded, scene_pairs(1), modalities=["image"], loss_terms=terms, steps=4, noise_samples=1)
    h = a.history
    np.testing.assert_allclose(h["image/compression_weight"], [1.5, 2.25, 3.0, 3.0])
    total = h["image/compression_weight"] * h["image/compression"] - h["image/relevance"]
    np.testing.assert_allclose(h["loss/total"], total, rtol=1e-5)


def test_what_a_pairs_relevance_counts_for_divides_what_compression_costs_it(embedded):
    method = M2IB(embedded, modalities=["image"], **FAST)
    batch = embedded.preprocess_pairs(scene_pairs(2))
    half = method.attribute(batch._replace(weights={"image": torch.tensor([0.5, 1.0]), "text": torch.ones(2)}))
    dear = M2IB(embedded, modalities=["image"], image_beta=6.0, **FAST).attribute(batch)
    assert_same_maps(half[0], dear[0])
    assert_same_maps(half[1], method.attribute(batch)[1])


def test_relevance_of_each_tower_counts_for_what_is_said_of_that_tower(embedded):
    batch = embedded.preprocess_pairs(scene_pairs(2))
    weights = {"text": torch.full((2,), 0.25), "image": torch.full((2,), 2.0)}
    found = M2IB(embedded, image_beta=3.0, text_beta=0.1, **FAST).attribute(batch._replace(weights=weights))
    expected = M2IB(embedded, image_beta=1.5, text_beta=0.4, **FAST).attribute(batch)
    for a, b in zip(found, expected, strict=True):
        assert_same_maps(a, b)


def test_a_term_sees_the_tokens_the_grid_and_both_clean_embeddings_of_its_tower(embedded):
    seen = {}

    class Watching(LossTerm):
        def forward(self, tower):
            seen[tower.modality] = tower
            return tower.lambda_.mean((1, 2))

    batch = embedded.preprocess_pairs(scene_pairs(2))
    M2IB(embedded, loss_terms=[Relevance(), Watching()], steps=1, noise_samples=3).attribute(batch)
    image, text = (embedded.embed(m, batch) for m in ("image", "text"))
    for m, own, other in (("image", image, text), ("text", text, image)):
        tower = seen[m]
        torch.testing.assert_close(tower.clean, own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tower.other, other, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tower.target, torch.nn.functional.normalize(other, dim=-1), rtol=1e-4, atol=1e-5)
        assert tower.embedding.shape == (3, *own.shape)
    assert seen["image"].grid == (8, 8) and seen["text"].grid is None
    assert seen["image"].content.sum(1).tolist() == [64, 64] and not seen["image"].content[:, 0].any()
    lengths = [len(tokens) for tokens in batch.tokens]
    assert seen["text"].content.sum(1).tolist() == [length - 2 for length in lengths]
    assert seen["text"].open.sum(1).tolist() == lengths  # on the embeddings EOS is a token like any other
    assert seen["image"].open.sum(1).tolist() == [64, 64]  # CLS is held at its mean


def test_joint_terms_count_only_where_both_towers_are_fitted(embedded):
    method = M2IB(embedded, loss_terms=[Relevance(), Agreement()], steps=1, noise_samples=1)
    batch = embedded.preprocess_pairs(scene_pairs(1))
    targets = {"text": torch.nn.functional.normalize(embedded.embed("image", batch), dim=-1)}
    both, one = method.attribute(batch)[0], method.attribute(batch._replace(targets=targets))[0]
    assert set(both.history) == {"loss/total", "image/relevance", "text/relevance", "joint/agreement"}
    assert set(one.history) == {"loss/total", "text/relevance"} and one.image_map is None
    parts = [both.history[name] for name in both.history if name != "loss/total"]
    np.testing.assert_allclose(both.history["loss/total"], -sum(parts), rtol=1e-5)


def test_mean_masks_stand_where_maps_do_and_are_0_where_nothing_is_masked(embedded):
    fit = M2IB(embedded, text_layer=1).new_fit(embedded.preprocess_pairs(scene_pairs(2)))
    for m in ("image", "text"):
        torch.nn.init.normal_(fit.bottleneck(m).alpha)
    lambda_, is_open = fit.bottleneck("text").lambda_.detach(), fit.bottleneck("text").open
    for row, mask, shown in zip(fit.mean_masks("text"), lambda_, is_open, strict=True):
        torch.testing.assert_close(row, mask.mean(1) * shown)
        assert not row[~shown].any() and (row[shown] > 0).all()
    images = fit.bottleneck("image").lambda_.detach()[:, 1:].mean(2)
    assert [picture.shape for picture in fit.mean_masks("image")] == [(8, 8)] * 2
    torch.testing.assert_close(torch.stack(fit.mean_masks("image")).flatten(1), images)
    alone = M2IB(embedded, modalities=["image"]).new_fit(embedded.preprocess_pairs(scene_pairs(1)))
    assert alone.mean_masks("text") is None and alone.maps("text") is None


@pytest.mark.parametrize(("pairs", "samples", "chunk"), [(1, 40, 31), (2, 40, 15), (2, 4, 4), (40, 4, 1)])
def test_on_a_processor_some_two_thousand_tokens_go_through_a_tower_at_once(embedded, pairs, samples, chunk):
    method = M2IB(embedded, modalities=["image"], noise_samples=samples)
    fit = method.new_fit(embedded.preprocess_pairs(scene_pairs(1) * pairs))  # 65 tokens each
    assert fit._chunk() == chunk
    fit.noise_chunk = 3
    assert fit._chunk() == 3
    fit.noise_chunk = 99
    assert fit._chunk() == samples


def test_a_fit_that_is_opened_again_makes_the_same_steps(embedded):
    method = M2IB(embedded, modalities=["image"], **FAST)
    fit = method.new_fit(embedded.preprocess_pairs(scene_pairs(2)))
    found = []
    for _ in range(2):
        fit.restart()
        assert fit.history == [] and (fit.bottleneck("image").alpha == 5).all() and fit.stopping.running.all()
        optimizer = method.new_optimizer(fit.parameters())
        for _ in range(2):
            fit.step(optimizer)
        found.append(torch.stack(fit.maps("image")))
        assert len(fit.history) == 2 and all(p.grad is None for p in fit.parameters())
    torch.testing.assert_close(*found, rtol=0, atol=0)
