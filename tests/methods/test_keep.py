"""`keep`: what is left through the bottlenecks, whatever the pair, the model and the way of running."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.data import PairDataModule, make_scene
from m2ib_lightning.losses import Compression, Relevance
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.keeping import GAIN, Held, beta_ratio, compress_until, least
from m2ib_lightning.types import Pair
from tests.methods.made import assert_same_maps, explain, quiet_trainer, scene_pairs
from tests.pages import ROOT

MODALITIES = ("image", "text")


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def scores(a) -> list[float]:
    return [a.image_score, a.text_score]


def test_the_share_that_is_asked_for_is_left_of_every_pair_on_a_trained_and_on_a_random_model(backbone, pairs):
    for keep in (0.7, 0.9):
        for a in explain(backbone, pairs, keep=keep, noise_samples=2):
            wanted = a.score - (1 - keep) * abs(a.score)
            assert min(scores(a)) >= wanted - 1e-6


def test_less_is_let_through_the_less_is_to_be_kept(embedded):
    found = [explain(embedded, scene_pairs(3), keep=keep, noise_samples=2) for keep in (0.5, 0.95)]
    for some, most in zip(*found, strict=True):
        assert some.image_map.sum() < most.image_map.sum() and some.text_map.sum() < most.text_map.sum()


def test_what_is_kept_lies_on_what_is_named(embedded):
    scenes = [make_scene(60_100 + i) for i in range(4)]
    pairs = [Pair(str(i), scene.image, scene.text) for i, scene in enumerate(scenes)]
    shares = {}
    for name, arguments in {"betas": {}, "keep": {"keep": 0.9}}.items():
        found = explain(embedded, pairs, **arguments)
        shares[name] = [_on_object(a, scene) for a, scene in zip(found, scenes, strict=True)]
    assert np.mean(shares["keep"]) > 0.8 * np.mean(shares["betas"]), shares


def _on_object(a, scene) -> float:
    """The share of the map that lies on the named object."""
    spread = np.kron(a.image_map, np.ones(np.array(scene.mask.shape) // a.image_map.shape))
    return float(spread[scene.mask].sum() / spread.sum())


def test_what_is_said_to_be_left_is_what_the_masks_of_the_map_leave(embedded):
    batch = embedded.preprocess_pairs(scene_pairs(2))
    method = M2IB(embedded, keep=0.9, noise_samples=2, steps=6)
    fit = method.new_fit(batch)
    optimizer = method.new_optimizer(fit.parameters())
    for _ in range(6):
        fit.step(optimizer)
    results, held = method.results(fit), fit.held()
    for m, other in (("image", "text"), ("text", "image")):
        tower, hidden, bottleneck = embedded.tower(m), fit.hidden[m], fit.bottleneck(m)
        steps = range(6, {"image": 7, "text": 10}[m])
        noise = torch.cat([method.noise(step, m, tower.length, tower.width, torch.device("cpu")) for step in steps])
        with torch.no_grad():
            z = bottleneck(noise, torch.sigmoid(held[m].alpha))
            seen = F.cosine_similarity(tower.suffix(z, hidden, fit.towers[m].layer), fit.clean[other], dim=-1).mean(0)
        torch.testing.assert_close(seen, torch.tensor([getattr(a, f"{m}_score") for a in results]))
        nats = bottleneck.capacity(held[m].alpha).sum((1, 2))
        special = fit.hidden["image"].special
        shown = [float(getattr(a, f"{m}_map").sum()) for a in results]
        hidden_nats = bottleneck.capacity(held[m].alpha).sum(2)[special].reshape(2, -1).sum(1) if m == "image" else 0
        np.testing.assert_allclose(nats - hidden_nats, shown, rtol=1e-4)


def test_a_pair_is_kept_the_same_alone_in_a_batch_in_parts_and_under_a_trainer(embedded):
    arguments = {"keep": 0.9, "noise_samples": 2, "steps": 6}
    pairs = scene_pairs(3)
    together = explain(embedded, pairs, **arguments)
    alone = explain(embedded, pairs[1:2], **arguments)[0]
    parts = explain(embedded, pairs, noise_chunk=1, **arguments)[1]
    for a in (alone, parts):
        assert_same_maps(a, together[1])
        assert scores(a) == pytest.approx(scores(together[1]), abs=1e-4)
        np.testing.assert_allclose(a.history["text/beta"], together[1].history["text/beta"], rtol=1e-3)


def fitted(embedded, folder, epochs, checkpoint=None):
    method = M2IB(embedded, keep=0.9, noise_samples=2)
    trainer = quiet_trainer(max_epochs=epochs)
    trainer.callbacks.append(ModelCheckpoint(folder, save_last=True))
    trainer.fit(method, PairDataModule(scenes=2), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "masks.ckpt")
    return method.attributions()


def test_a_fit_gives_what_attribute_gives_and_goes_on_bit_equal(embedded, tmp_path):
    whole = fitted(embedded, tmp_path, 6)
    pairs = [pair for batch in _batches() for pair in batch]
    for a, b in zip(whole, explain(embedded, pairs, keep=0.9, noise_samples=2, steps=6), strict=True):
        assert_same_maps(a, b)
        assert scores(a) == pytest.approx(scores(b), abs=1e-4)
    fitted(embedded, tmp_path, 3)
    for a, b in zip(fitted(embedded, tmp_path, 6, str(tmp_path / "masks.ckpt")), whole, strict=True):
        np.testing.assert_array_equal(a.image_map, b.image_map)
        np.testing.assert_array_equal(a.text_map, b.text_map)
        np.testing.assert_array_equal(a.history["image/beta"], b.history["image/beta"])


def _batches():
    data = PairDataModule(scenes=2)
    data.setup("fit")
    return data.train_dataloader()


def test_looking_at_the_result_of_a_fit_does_not_change_it(embedded):
    batch, method = embedded.preprocess_pairs(scene_pairs(1)), M2IB(embedded, keep=0.9, noise_samples=2, steps=4)
    fits = [method.new_fit(batch) for _ in range(2)]
    for fit, watched in zip(fits, (False, True), strict=True):
        optimizer = method.new_optimizer(fit.parameters())
        for _ in range(4):
            fit.step(optimizer)
            if watched:
                method.results(fit)
    a, b = (method.results(fit)[0] for fit in fits)
    np.testing.assert_array_equal(a.image_map, b.image_map)


def test_beta_is_recorded_and_falls_while_too_little_is_left(embedded):
    a = explain(embedded, scene_pairs(1), keep=0.9, noise_samples=2)[0]
    for modality, start in (("image", 3.0), ("text", 0.1)):
        left, beta = a.history[f"{modality}/relevance"], a.history[f"{modality}/beta"]
        assert beta[0] == pytest.approx(start) and len(beta) == a.steps
        wanted = 0.9 * a.score
        expected = start * np.exp(GAIN * np.minimum(left[:-1] - wanted, 0) / wanted)
        np.testing.assert_allclose(beta[1:], expected, rtol=1e-3)
    assert a.settings["keep"] == 0.9 and "image_beta" not in a.settings


def test_one_modality_and_targets_are_kept_along_what_is_explained(embedded):
    a = explain(embedded, scene_pairs(1), keep=0.9, noise_samples=2, modalities=["text"])[0]
    assert a.image_map is None and a.text_score >= 0.9 * a.score
    batch = embedded.preprocess_pairs(scene_pairs(2))
    # Against the pair's own similarity, so that the clean value is below 0.
    targets = {"image": -F.normalize(embedded.embed("text", batch), dim=-1)}
    method = M2IB(embedded, keep=0.8, noise_samples=2)
    fit = method.new_fit(batch._replace(targets=targets))
    method_step = method.new_optimizer(fit.parameters())
    for _ in range(method.steps):
        fit.step(method_step)
    held = fit.held()
    assert list(held) == ["image"] and (fit.wanted("image") < 0).all()
    assert (held["image"].relevance >= fit.wanted("image")).all()


def test_a_pair_that_is_not_finite_has_no_map_and_costs_no_others(embedded):
    class Broken(Relevance):
        name = "relevance"

        def forward(self, tower):
            found = super().forward(tower)
            return torch.where(torch.arange(len(found)) == 0, torch.nan, found) if len(found) == 2 else found

    pairs = scene_pairs(2)
    found = explain(embedded, pairs, keep=0.9, noise_samples=2, steps=4, loss_terms=[Compression(), Broken()])
    assert found[0].stop_reason == "non_finite" and found[0].image_map is None
    assert_same_maps(found[1], explain(embedded, pairs[1:], keep=0.9, noise_samples=2, steps=4)[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"keep": 0.0}, "`keep` to be above 0 and at most 1 but got 0.0"),
        ({"keep": 1.1}, "`keep` to be above 0 and at most 1 but got 1.1"),
        ({"keep": float("nan")}, "`keep` to be above 0"),
        ({"keep": 0.9, "image_beta": 1.0}, "`keep` or betas but got keep=0.9 and {'image_beta': 1.0}"),
        ({"keep": 0.9, "loss_terms": [Compression()]}, "Relevance and Compression among `loss_terms`"),
    ],
)
def test_a_share_that_is_none_betas_beside_it_and_terms_without_trade_are_refused_in_one_line(arguments, said):
    with pytest.raises(ValueError, match=said) as error:
        M2IB(**arguments)
    assert "\n" not in str(error.value) and "Remedy" in str(error.value)


def test_what_must_be_left_is_the_share_of_a_similarity_and_of_the_size_of_one_below_zero():
    clean = torch.tensor([0.4, -0.2, 0.0])
    torch.testing.assert_close(least(clean, 0.75), torch.tensor([0.3, -0.25, 0.0]))
    ratio = beta_ratio(torch.tensor([0.4, 0.3, 0.27]), torch.tensor(0.3))
    torch.testing.assert_close(ratio, torch.tensor([1.0, 1.0, np.exp(-GAIN / 10)], dtype=torch.float32))
    # Of a pair that does not match: a tenth of what must be left is missing.
    torch.testing.assert_close(beta_ratio(torch.tensor(-0.33), torch.tensor(-0.3)), ratio[2])


def test_with_keep_no_pair_ends_by_its_loss_which_moves_with_its_beta(embedded):
    batch = embedded.preprocess_pairs(scene_pairs(2))
    found = M2IB(embedded, keep=0.9, steps=6, tolerance=10.0, patience=1, noise_samples=2).attribute(batch)
    assert [(a.steps, a.stop_reason) for a in found] == [(6, "max_steps")] * 2


def test_of_the_shifts_that_leave_enough_the_smallest_is_taken_else_the_one_that_leaves_most():
    """One channel a pair, of which sigmoid(alpha) is left: 0.85 leaves 0.7."""

    def look(alpha):
        return Held.of_samples(alpha, torch.sigmoid(alpha)[None, :, 0, 0])

    alpha = torch.tensor([2.0, -1.0, 0.0, -30.0]).reshape(4, 1, 1)
    wanted = torch.tensor([0.7, 0.7, 1.1, 0.7])
    found = compress_until(look, alpha, wanted)
    torch.testing.assert_close(found.relevance, look(found.alpha).relevance)
    shift = (found.alpha - alpha)[:, 0, 0]
    # -3 t^2 or 6 t^2 with t in eighths: -3 (5/8)^2 leaves 0.696 and 6 (4/8)^2 leaves 0.62; nothing leaves 1.1.
    torch.testing.assert_close(shift, torch.tensor([-3 * 0.25, 6 * (5 / 8) ** 2, 24.0, 24.0]), rtol=0, atol=1e-6)


def test_what_is_left_is_held_to_be_less_by_two_standard_errors_of_the_samples_and_three_hundredths():
    left = torch.tensor([[0.3, 0.5], [0.5, 0.5]])
    held = Held.of_samples(torch.zeros(2, 1, 1), left)
    # The samples' deviation is 0.1414, their mean's 0.1.
    torch.testing.assert_close(held.relevance, torch.tensor([0.4, 0.5]))
    torch.testing.assert_close(held.safe, torch.tensor([0.4 - 0.2 - 0.012, 0.5 - 0.015]))
    # One sample says nothing of its error. What is below 0 may be further below.
    one = Held.of_samples(torch.zeros(2, 1, 1), torch.tensor([[0.5, -0.5]]))
    torch.testing.assert_close(one.safe, torch.tensor([0.485, -0.515]))


@pytest.mark.slow
def test_what_holds_is_said_by_the_script_and_holds_with_other_noise_nearly(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import measure_keep

    monkeypatch.setattr("sys.argv", ["", "--scenes=24", "--scene_seed=60000", f"--output={tmp_path}"])
    measure_keep.main()
    default, *kept = json.loads((tmp_path / "rows.json").read_text())["rows"]
    for row, keep in zip(kept, measure_keep.KEEPS, strict=True):
        for modality in MODALITIES:
            assert row[f"{modality} holds"] == 1 and row[f"{modality} lowest fresh"] > keep - 0.1
        assert row["word first"] >= default["word first"] - 0.05


def test_beta_falls_to_a_ten_thousandth_at_most_and_a_similarity_near_0_is_measured_in_hundredths():
    left = torch.tensor([-1.0, 0.0, 0.2, 0.0])
    # Of the last a thousandth is missing, which is a tenth of a hundredth.
    ratio = beta_ratio(left, torch.tensor([0.3, 0.3, 0.3, 0.001]))
    expected = torch.tensor([-9.0, -9.0, -10 / 3, -1.0]).exp()
    torch.testing.assert_close(ratio, expected)


def test_what_is_just_enough_is_enough_and_closes_masks_as_far_as_is_tried():
    def look(alpha):
        return Held(alpha, torch.full((1,), 0.5), torch.full((1,), 0.5))

    found = compress_until(look, torch.zeros(1, 1, 1), torch.tensor([0.5]))
    assert float(found.alpha) == pytest.approx(-3 * (7 / 8) ** 2)


def test_where_nothing_is_enough_the_masks_that_leave_most_are_taken_the_fitted_ones_among_equals():
    def look(alpha):
        left = -(alpha[:, 0, 0] - torch.tensor([2.3, 0.0])).abs()
        return Held(alpha, left, left)

    # Shifts of 6 t^2 with t = 1/2, 3/4, 7/8 and of 24 are tried: 1.5 is nearest to 2.3, and 0 to 0.
    found = compress_until(look, torch.zeros(2, 1, 1), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found.alpha[:, 0, 0], torch.tensor([1.5, 0.0]))
    torch.testing.assert_close(found.relevance, torch.tensor([-0.8, 0.0]))
