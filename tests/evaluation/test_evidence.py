"""What metrics are given of a pair, against what is written out by hand."""

import numpy as np
import pytest
import torch

from m2ib_lightning import load_backbone
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation import Evaluator, Protocol, true_tokens
from m2ib_lightning.evaluation.evidence import BatchEvidence, blurred
from m2ib_lightning.evaluation.sanity import NONSENSE, Sanity
from m2ib_lightning.methods import M2IB, GradCAM, RandomMap
from m2ib_lightning.metrics import NonsensePrompt, RandomisationSimilarity
from m2ib_lightning.types import Pair
from tests.evaluation.scenes import scene_pairs


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def evidence(method, pairs, protocol) -> BatchEvidence:
    batch = method.prepare().preprocess_pairs(pairs)
    return BatchEvidence(Sanity(method), batch, method.attribute(batch), protocol)


@torch.no_grad()
def test_an_insertion_starts_from_the_blurred_picture(embedded):
    seen = evidence(RandomMap(embedded), scene_pairs(1), Protocol(steps=2))
    pixels = embedded.embed("image", seen.batch._replace(pixel_values=blurred(seen.batch.pixel_values)))
    expected = torch.cosine_similarity(pixels, embedded.embed("text", seen.batch))
    torch.testing.assert_close(seen.curve("image", "insertion")[:, 0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_fidelity_is_that_of_a_slow_loop_over_maskings(embedded):
    method, pairs, protocol = RandomMap(embedded), scene_pairs(2), Protocol(masks=3)
    seen = evidence(method, pairs, protocol)
    predicted, falls = seen.fidelity("image")
    rows, columns = embedded.image.grid(seen.batch)
    keep = torch.rand(3, 1, rows, columns, generator=torch.Generator().manual_seed(0)) < 0.5
    height, width = seen.batch.pixel_values.shape[2] // rows, seen.batch.pixel_values.shape[3] // columns
    text = embedded.embed("text", seen.batch)
    for k in range(3):
        pixels = seen.batch.pixel_values.clone()
        hidden = torch.zeros(2)
        for r in range(rows):
            for c in range(columns):
                if not keep[k, 0, r, c]:
                    pixels[:, :, r * height : (r + 1) * height, c * width : (c + 1) * width] = 0
                    hidden += torch.tensor([float(a.image_map[r, c]) for a in seen.attributions])
        torch.testing.assert_close(predicted[k], hidden)
        left = torch.cosine_similarity(embedded.embed("image", seen.batch._replace(pixel_values=pixels)), text)
        clean = torch.cosine_similarity(embedded.embed("image", seen.batch), text)
        torch.testing.assert_close(falls[k], clean - left, rtol=0, atol=1e-5)


def test_what_special_tokens_hold_makes_no_word_fainter(embedded):
    seen = evidence(RandomMap(embedded), scene_pairs(2), Protocol())
    expected = seen.masks("text")
    for a in seen.attributions:
        a.text_map[a.special] = 100
    torch.testing.assert_close(seen.masks("text"), expected)
    assert expected.amax(1).tolist() == [1, 1]


def test_the_nonsense_map_is_that_of_the_picture_beside_the_nonsense_text(embedded):
    method, (pair,) = GradCAM(embedded), scene_pairs(1)
    (seen,) = evidence(method, [pair], Protocol()).pairs()
    (other,) = method.attribute(embedded.preprocess_pairs([pair._replace(text=NONSENSE)]))
    np.testing.assert_allclose(seen.nonsense("image").numpy(), other.image_map.ravel(), rtol=1e-4, atol=1e-7)
    assert np.abs(other.image_map.ravel() - seen.values("image").numpy()).max() > 1e-4
    assert seen.nonsense("text") is None


def test_two_batches_of_one_evaluator_are_scored_as_by_two(embedded):
    pairs = scene_pairs(2)
    metrics = [RandomisationSimilarity(), NonsensePrompt()]
    one = Evaluator(GradCAM(embedded), metrics)
    together = [one.explain([pair])[1][0] for pair in pairs]
    apart = [Evaluator(GradCAM(embedded), metrics).explain([pair])[1][0] for pair in pairs]
    assert together == apart
    assert together[0]["image/NonsensePrompt"] != together[1]["image/NonsensePrompt"]


def test_noisy_pictures_go_to_both_sides_by_no_more_than_the_radius(embedded, monkeypatch):
    given = []
    monkeypatch.setattr(RandomMap, "attribute", lambda self, batch: given.append(batch.pixel_values))
    batch = embedded.preprocess_pairs(scene_pairs(2))
    Sanity(RandomMap(embedded), radius=0.5, samples=2).noisy(batch)
    noise = torch.stack(given) - batch.pixel_values
    torch.testing.assert_close(noise[:, 0], noise[:, 1])  # all pairs get the same
    assert noise.abs().max() <= 0.5 + 1e-5 and noise.mean().abs() < 0.02
    assert noise.max() > 0.45 and noise.min() < -0.45 and not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ((2, 5), [True, False, False, False]),  # "cat" in "catfish", read as "cat" and "fish": "fish" only touches it
        ((5, 9), [False, True, False, False]),
        ((10, 12), [False, False, True, False]),  # the full stop behind a named word is not named
    ],
)
def test_a_token_is_true_if_it_shares_a_character_and_not_if_it_touches(named, expected):
    text = "a catfish in."
    spans = [(2, 5), (5, 9), (10, 12), (12, 13)]
    a = Attribution("", text, None, None, ["cat", "fish", "in", "."], np.zeros(4, bool), spans, 0.0)
    assert true_tokens(a, [named]).tolist() == expected


def test_the_evaluator_keeps_the_order_of_the_pairs(embedded):
    pairs = [Pair(str(i), p.image, p.text) for i, p in enumerate(scene_pairs(3))]
    attributions, rows = Evaluator(RandomMap(embedded), []).explain(pairs)
    assert [a.id for a in attributions] == [row["id"] for row in rows] == ["0", "1", "2"]


def test_a_randomised_model_is_explained_in_inference_mode_as_outside_of_it(embedded):
    method = M2IB(embedded, steps=2, noise_samples=2, image_layer=1)
    batch = method.prepare().preprocess_pairs(scene_pairs(1))
    with torch.inference_mode():  # as a Trainer tests
        found = Sanity(method)
        (random,), down = found.randomised(batch), [maps[0] for maps in found.cascade(batch)]
    np.testing.assert_allclose(random.image_map, Sanity(method).randomised(batch)[0].image_map, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(down[-1].image_map, random.image_map, rtol=1e-4, atol=1e-3)
