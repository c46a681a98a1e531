import copy

import numpy as np
import pytest
import torch

from m2ib_lightning import load_backbone
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation import (
    Evaluator,
    Protocol,
    interval,
    paired_interval,
    sanity_metrics,
    standard_metrics,
)
from m2ib_lightning.evaluation.evidence import blurred, first_shown, spread
from m2ib_lightning.evaluation.sanity import randomise
from m2ib_lightning.evaluation.truth import true_tokens
from m2ib_lightning.methods import Occlusion
from m2ib_lightning.methods.objective import objectives
from m2ib_lightning.types import Truth
from tests.evaluation.scenes import scene_pairs as scenes


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


@pytest.mark.slow
def test_every_metric_has_a_value_for_a_scene_and_only_scores_without_truth(embedded):
    pairs = scenes(3)
    evaluator = Evaluator(Occlusion(embedded), standard_metrics() + sanity_metrics(), Protocol(steps=4, masks=6))
    attributions, rows = evaluator.explain(pairs)
    assert [a.id for a in attributions] == [row["id"] for row in rows] == ["0", "1", "2"]
    for metric in evaluator.metrics:
        low, high = metric.bounds
        for row in rows:
            assert low - 1e-6 <= row[metric.name] <= high + 1e-6, metric.name
        assert float(metric.compute()) == pytest.approx(np.mean([row[metric.name] for row in rows]), abs=1e-5)
    blind = Evaluator(Occlusion(embedded), protocol=Protocol(steps=4))
    row = blind.explain([pairs[0]._replace(truth=Truth())])[1][0]
    without = {name for name, value in row.items() if isinstance(value, float) and np.isnan(value)}
    named = ("PointingGame", "RelevanceMassAccuracy", "RelevanceRankAccuracy", "MeanIoU", "ContrastToNoiseRatio")
    assert without == {*(f"image/{name}" for name in named), "text/TokenAUROC", "text/TokenMassAccuracy"}


@torch.no_grad()
def test_masked_scores_and_curves_are_those_of_a_slow_loop(embedded):
    pairs = scenes(2)
    evaluator = Evaluator(Occlusion(embedded), protocol=Protocol(steps=3))
    attributions, rows = evaluator.explain(pairs)
    for pair, a, row in zip(pairs, attributions, rows, strict=True):
        batch = embedded.preprocess_pairs([pair])
        other = embedded.embed("text", batch)
        cells = torch.nn.functional.interpolate(torch.from_numpy(a.image_map)[None, None], (96, 96), mode="bilinear")[
            0, 0
        ]
        heat = cells.clamp(min=0) / cells.max()

        def cosine(pixels, batch=batch, other=other):
            return float(torch.cosine_similarity(embedded.embed("image", batch._replace(pixel_values=pixels)), other))

        clean, masked = cosine(batch.pixel_values), cosine(batch.pixel_values * heat)
        assert row["image/ConfidenceDrop"] == pytest.approx(100 * max(0, clean - masked), abs=1e-3)
        assert row["image/ConfidenceIncrease"] == 100 * (masked > clean)
        order = cells.flatten().argsort(descending=True)
        curve = []
        for step in range(4):
            keep = torch.ones(96 * 96)
            keep[order[: round(96 * 96 * step / 3)]] = 0
            curve.append(cosine(batch.pixel_values * keep.reshape(96, 96)))
        # Equal pixels may be taken in another order.
        np.testing.assert_allclose(row["image/deletion"], curve, atol=0.02)
        assert row["image/insertion"][-1] == pytest.approx(clean, abs=1e-5)
        assert row["text/deletion"][0] == pytest.approx(clean, abs=1e-5)


@torch.no_grad()
def test_text_is_masked_by_scaling_the_embeddings_of_content_tokens(embedded):
    batch = embedded.preprocess_pairs(scenes(2))
    objective = objectives(embedded, batch)["text"]
    table = embedded.model.text_model.embeddings
    scale = torch.rand(batch.input_ids.shape, generator=torch.Generator().manual_seed(0))
    found = objective.masked(scale[None])[0]
    for i, ids in enumerate(batch.input_ids):
        length = int(batch.attention_mask[i].sum())
        weight = scale[i, :length].clone()
        weight[0] = weight[-1] = 1
        embeddings = table.token_embedding(ids[:length]) * weight[:, None]
        hook = table.token_embedding.register_forward_hook(lambda *_, e=embeddings: e[None])
        out = embedded.model.text_model(input_ids=ids[None, :length])
        hook.remove()
        expected = embedded.model.text_projection(out.pooler_output)
        torch.testing.assert_close(found[i], torch.cosine_similarity(expected, objective.target[i : i + 1])[0])
    torch.testing.assert_close(objective.masked(torch.ones_like(scale)[None])[0], objective.clean)


def test_the_highest_values_are_shown_first_and_equal_ones_at_random():
    maps = torch.tensor([[3.0, 1.0, 2.0, 9.0]])
    content = torch.tensor([[True, True, True, False]])
    shown = first_shown(maps, content, steps=3, seed=0)[:, 0]
    assert shown.tolist() == [[0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]]
    flat = first_shown(torch.zeros(1, 1000), torch.ones(1, 1000).bool(), steps=2, seed=0)[1, 0]
    assert flat.sum() == 500 and 200 < flat[:500].sum() < 300


def test_the_blur_is_that_of_scipy():
    from scipy.ndimage import gaussian_filter

    pixels = torch.rand(1, 2, 30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [gaussian_filter(c.numpy(), 5, mode="mirror", truncate=1.0) for c in pixels[0]]
    np.testing.assert_allclose(blurred(pixels)[0].numpy(), np.stack(expected), atol=1e-6)


def test_a_map_is_spread_over_what_the_model_saw():
    values = np.array([[1.0, 3.0]], dtype=np.float32)
    a = Attribution("", "", values, None, [], np.zeros(0, bool), [], 0.0, view=(0.25, 0.0, 0.75, 1.0))
    whole = spread(a, (4, 8))
    assert whole[:, :2].sum() == 0 and whole[:, 6:].sum() == 0
    assert whole[0, 2] == 1 and whole[0, 5] == 3 and whole.shape == (4, 8)


def test_tokens_are_true_where_they_share_characters_with_a_span():
    spans = [(0, 0), (0, 1), (2, 5), (5, 8), (0, 0)]
    special = np.array([True, False, False, False, True])
    a = Attribution("", "a catfish", None, None, list("abcde"), special, spans, 0.0)
    assert true_tokens(a, [(2, 9)]).tolist() == [False, False, True, True, False]


def test_a_special_token_is_not_true_wherever_its_tokenizer_places_it():
    a = Attribution("", "cat", None, None, ["cat", "</s>"], np.array([False, True]), [(0, 3), (2, 3)], 0.0)
    assert true_tokens(a, [(0, 3)]).tolist() == [True, False]


def test_a_randomised_model_keeps_its_distribution_and_the_original_is_untouched(embedded):
    twin = copy.deepcopy(embedded)
    randomise(twin)
    for (name, a), b in zip(embedded.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a.flatten().sort().values, b.flatten().sort().values)
        if a.ndim > 1 and a.numel() > 100:
            assert not torch.equal(a, b), name
    assert twin.weight_hash != embedded.weight_hash


def test_intervals_cover_the_mean_of_a_normal_sample_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        found = interval(rng.normal(3, 1, 40), resamples=300, seed=seed)
        hits += found.low <= 3 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_a_paired_difference_is_narrower_than_the_parts():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 50)
    found = paired_interval(base + 1 + rng.normal(0, 0.1, 50), base)
    assert 0.9 < found.low < found.mean < found.high < 1.1
    assert paired_interval([1.0, np.nan], [0.0, 1.0]).pairs == 1


def test_an_interval_leaves_infinite_values_out():
    assert interval([1.0, np.inf, -np.inf, np.nan]) == (1.0, 1.0, 1.0, 1)
