"""A pair that is done leaves the batch: what stays of the others is theirs, whatever place they had."""

import numpy as np
import pytest
import torch
from PIL import Image

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.losses import Bottlenecked, Compression, LossTerm, Relevance, TotalVariation
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.baselines.kernel_shap import draw_coalitions
from m2ib_lightning.types import Pair
from tests.checkpoints import random_siglip2
from tests.methods.made import assert_same_maps, explain


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


class Trouble(LossTerm):
    """Adds to the loss of some pairs, known by their clean embeddings, one of two values at a step and after it."""

    def __init__(self, backbone: Backbone, trouble: dict[int, tuple[int, float]], pairs: list[Pair]) -> None:
        super().__init__()
        self.trouble = {
            i: (backbone.embed("image", backbone.preprocess_pairs([pairs[i]]))[0], step, value)
            for i, (step, value) in trouble.items()
        }
        self.calls = 0

    def forward(self, tower: Bottlenecked) -> torch.Tensor:
        added = tower.alpha.mean((1, 2)) * 0
        if tower.modality == "image":
            for clean, step, value in self.trouble.values():
                mine = (tower.clean - clean).abs().amax(1) < 1e-3
                added = added + torch.where(mine & (self.calls >= step), value, 0.0)
            self.calls += 1
        return added


def pairs_of_many_shapes() -> list[Pair]:
    """Captions of different lengths and pictures of different proportions."""
    sizes = [(96, 96), (140, 96), (96, 150), (200, 96), (96, 96), (96, 180)]
    scenes = [make_scene(i, named=1 + i % 3) for i in range(6)]
    return [Pair(f"p{i}", s.image.resize(size), s.text) for i, (s, size) in enumerate(zip(scenes, sizes, strict=True))]


@pytest.mark.parametrize("arguments", [{}, {"read_out": "clean"}, {"read_out": "bottleneck", "text_layer": 1}])
def test_the_others_keep_their_names_tokens_views_histories_and_maps(arguments, embedded):
    pairs = pairs_of_many_shapes()
    given = {"noise_samples": 2, "steps": 6, "tolerance": None, "noise_chunk": 2} | arguments
    terms = [Compression(), Relevance(), Trouble(embedded, {0: (2, 1e4), 3: (4, 1e4)}, pairs)]
    together = M2IB(embedded, loss_terms=terms, **given).attribute(embedded.preprocess_pairs(pairs))
    assert [a.steps for a in together] == [2, 6, 6, 4, 6, 6] and together[0].stop_reason == "diverged"
    for a, pair in zip(together, pairs, strict=True):
        (alone,) = explain(embedded, [pair], **given | {"steps": a.steps})
        for name in ("id", "text", "tokens", "spans", "view", "truncated"):
            assert getattr(a, name) == getattr(alone, name), name
        assert_same_maps(a, alone, 1e-3)
        for name in ("image/relevance", "text/compression"):
            mine = a.history[name][: a.steps]
            assert len(mine) == a.steps
            np.testing.assert_allclose(mine, alone.history[name], rtol=1e-3, atol=1e-4)


def test_the_masks_of_a_pair_that_breaks_after_another_has_left_are_its_own(embedded):
    pairs = pairs_of_many_shapes()[:3]
    terms = [Compression(), Relevance(), Trouble(embedded, {0: (1, 1e4), 2: (4, float("nan"))}, pairs)]
    method = M2IB(embedded, modalities=["image"], loss_terms=terms, noise_samples=2, tolerance=None)
    fit = method.new_fit(embedded.preprocess_pairs(pairs))
    optimizer = method.new_optimizer(fit.parameters())
    for step in range(6):
        fit.step(optimizer)
        if step == 1:
            fit.drop_stopped(optimizer)
    assert fit.stopping.running.tolist() == [True, False]
    # The loss of the masks after four updates is not finite: those after three are kept.
    (alone,) = explain(embedded, pairs[2:], modalities=["image"], noise_samples=2, tolerance=None, steps=3)
    np.testing.assert_allclose(fit.maps("image")[1], alone.image_map, rtol=1e-3, atol=1e-3)


def test_grids_of_pictures_of_several_shapes_stay_with_their_pictures(tmp_path):
    backbone = load_backbone(str(random_siglip2(tmp_path)))
    pictures = [Image.linear_gradient("L").resize(size).convert("RGB") for size in ((64, 64), (120, 30), (30, 120))]
    pairs = [Pair(str(i), picture, "a cat") for i, picture in enumerate(pictures)]
    expected = [explain(backbone, [pair], prior="unit", steps=1, noise_samples=2)[0].image_map.shape for pair in pairs]
    assert len(set(expected)) == 3
    terms = [Compression(), Relevance(), Trouble(backbone, {0: (1, 1e4)}, pairs)]
    found = explain(backbone, pairs, prior="unit", steps=3, noise_samples=2, tolerance=None, loss_terms=terms)
    assert [a.image_map.shape for a in found] == expected and [a.steps for a in found] == [1, 3, 3]


def test_what_a_stopped_pair_shows_are_the_values_up_to_its_last_step(embedded):
    pairs = pairs_of_many_shapes()[:4]
    free = explain(embedded, pairs, noise_samples=2, tolerance=None, steps=12)
    stopped = explain(embedded, pairs, noise_samples=2, tolerance=0.05, patience=1, steps=12)
    assert min(a.steps for a in stopped) < 12
    for a, b in zip(stopped, free, strict=True):
        shown = a.history["loss/total"]
        assert len(shown) == a.steps + (a.stop_reason == "converged")
        np.testing.assert_allclose(shown, b.history["loss/total"][: len(shown)], rtol=1e-3, atol=1e-4)


def test_cls_is_no_cell_of_the_grid_that_a_term_sees(embedded):
    terms = [Compression(), Relevance(), TotalVariation(3.0)]
    (a,) = explain(
        embedded, pairs_of_many_shapes()[:1], modalities=["image"], read_out="bottleneck", noise_samples=2, steps=3,
        loss_terms=terms,
    )  # fmt: skip
    assert np.isfinite(a.history["image/total_variation"]).all() and a.image_map.shape == (8, 8)


def test_gradients_in_half_precision_have_the_size_of_those_in_full(embedded):
    def gradient() -> torch.Tensor:
        fit = M2IB(embedded, modalities=["image"], noise_samples=2).new_fit(
            embedded.preprocess_pairs(pairs_of_many_shapes()[:1])
        )
        fit.accumulate()
        return fit.bottleneck("image").alpha.grad

    full = gradient()
    with torch.autocast("cpu", torch.float16):
        half = gradient()
    assert float(half.norm() / full.norm()) == pytest.approx(1, abs=0.05)
    assert float(torch.cosine_similarity(half.ravel(), full.ravel(), dim=0)) > 0.98


def test_coalitions_are_drawn_by_the_kernel_of_shapley():
    # (n - 1) / (s (n - s)) of size s: all its coalitions together, Lundberg and Lee, NeurIPS 2017.
    drawn, weights = draw_coalitions(9, 400, seed=0)
    expected = np.array([8 / (s * (9 - s)) for s in range(1, 9)])
    found = np.bincount(drawn.sum(1).long().numpy(), minlength=9)[1:] / len(drawn)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.04)
    assert set(weights.tolist()) == {1}
