"""The terms of `losses/` in a fit: what the method must do for them."""

from typing import Any

import numpy as np
import pytest
import torch

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.losses import (
    Agreement,
    Bottlenecked,
    Compression,
    ContrastiveRelevance,
    JointTerm,
    LossTerm,
    Relevance,
    ScheduledCompression,
    Sparsity,
    TotalVariation,
)
from m2ib_lightning.methods import M2IB
from tests.methods.made import assert_same_maps, explain, scene_pairs


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


def terms(which: str) -> list[LossTerm]:
    plain = [Compression(), Relevance()]
    return {
        "total variation": [*plain, TotalVariation(3.0)],
        "sparsity": [*plain, Sparsity(1.0)],
        "contrastive": [*plain, ContrastiveRelevance(["a cat", "a dog"], [make_scene(77).image], weight=0.1)],
        "scheduled": [ScheduledCompression(0.0, 5), Relevance()],
        "agreement": [*plain, Agreement()],
    }[which]


EVERY = ["total variation", "sparsity", "contrastive", "scheduled", "agreement"]


@pytest.mark.slow
@pytest.mark.parametrize("which", EVERY)
def test_a_pair_is_explained_the_same_alone_in_a_batch_and_with_noise_in_parts(embedded, which):
    arguments: dict[str, Any] = {"noise_samples": 4, "loss_terms": terms(which)}
    pairs = scene_pairs(4)
    together = explain(embedded, pairs, **arguments)
    for a in (*explain(embedded, pairs[2:3], **arguments), explain(embedded, pairs, noise_chunk=1, **arguments)[2]):
        assert_same_maps(a, together[2])
        np.testing.assert_allclose(a.history["loss/total"], together[2].history["loss/total"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", EVERY)
def test_the_total_is_the_weighted_sum_of_what_is_logged(embedded, which):
    h = explain(embedded, scene_pairs(1), noise_samples=2, steps=6, loss_terms=terms(which))[0].history
    expected = np.zeros(6, np.float32)
    for modality, beta in (("image", 3.0), ("text", 0.1)):
        weight = h.get(f"{modality}/compression_weight", beta)
        expected = expected + weight * h[f"{modality}/compression"] - h[f"{modality}/relevance"]
        for name, weight in (("total_variation", 3.0), ("sparsity", 1.0), ("contrastive_relevance", 0.1)):
            expected = expected + weight * h.get(f"{modality}/{name}", 0.0)
    np.testing.assert_allclose(h["loss/total"], expected - h.get("joint/agreement", 0.0), rtol=1e-4, atol=1e-5)
    assert ("image/compression_weight" in h) == (which == "scheduled")


def test_the_gradient_of_a_joint_term_reaches_both_masks(embedded):
    fit = M2IB(embedded, loss_terms=[Agreement()], noise_samples=2).new_fit(embedded.preprocess_pairs(scene_pairs(2)))
    fit.accumulate()
    for modality, largest in (("image", 1e-6), ("text", 1e-6)):
        assert float(fit.bottleneck(modality).alpha.grad.abs().max()) > largest


def test_a_joint_term_sees_the_samples_of_both_towers_at_the_masks_of_this_step(embedded):
    seen = []

    class Look(JointTerm):
        def forward(self, image: Bottlenecked, text: Bottlenecked) -> torch.Tensor:
            seen.append((image.modality, text.modality, image.embedding.shape == text.embedding.shape))
            return image.lambda_.mean((1, 2)) + text.lambda_.mean((1, 2))

    result = explain(embedded, scene_pairs(1), loss_terms=[Look()], noise_samples=2, steps=1)[0]
    assert seen == [("image", "text", True)]
    # Masks are open, sigmoid(5) = 0.9933.
    assert result.history["joint/look"] == pytest.approx([2 * 0.9933], abs=1e-4)


def test_a_schedule_is_followed_and_no_pair_ends_because_of_it(embedded):
    found = explain(embedded, scene_pairs(3), loss_terms=terms("scheduled"), noise_samples=2, patience=1, steps=9)
    for a in found:
        np.testing.assert_allclose(a.history["image/compression_weight"][:7], [0, 0.6, 1.2, 1.8, 2.4, 3, 3], rtol=1e-5)
        # The loss rises while beta does, which is no sign that the fit is done or diverges.
        assert (np.diff(a.history["loss/total"][:3]) > 0.1).all() and a.steps >= 6


def test_negatives_are_embedded_as_the_model_embeds_them_in_pairs(embedded):
    pairs = scene_pairs(3)
    term = ContrastiveRelevance([p.text for p in pairs], [p.image for p in pairs])
    M2IB(embedded, loss_terms=[term]).prepare()
    batch = embedded.preprocess_pairs(pairs)
    # Rounding depends on how far a text is padded.
    torch.testing.assert_close(term.negatives["image"], embedded.embed("text", batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term.negatives["text"], embedded.embed("image", batch), rtol=1e-4, atol=1e-4)


def test_a_pairs_own_other_half_is_no_negative_of_it_in_a_fit(embedded):
    pairs, captions = scene_pairs(1), ["a cat", "a dog"]
    with_own, without = (
        explain(embedded, pairs, loss_terms=[Compression(), ContrastiveRelevance(some)], noise_samples=2, steps=1)[0]
        for some in ([*captions, pairs[0].text], captions)
    )
    name = "image/contrastive_relevance"
    np.testing.assert_allclose(with_own.history[name], without.history[name], rtol=1e-4, atol=1e-6)


def test_negatives_work_inside_inference_mode(embedded):
    with torch.inference_mode():
        method = M2IB(embedded, loss_terms=terms("contrastive"), noise_samples=2, steps=2)
        inside = method.attribute(method.prepare().preprocess_pairs(scene_pairs(1)))[0]
    outside = explain(embedded, scene_pairs(1), loss_terms=terms("contrastive"), noise_samples=2, steps=2)[0]
    assert_same_maps(inside, outside)


def test_terms_that_cannot_be_told_apart_or_miss_a_tower_are_refused(embedded):
    with pytest.raises(ValueError, match="'compression' more than once"):
        M2IB(embedded, loss_terms=[Compression(), ScheduledCompression()])
    with pytest.raises(ValueError, match="both modalities for Agreement"):
        M2IB(embedded, modalities=["image"], loss_terms=[Agreement()])
