"""Metrics of places on maps with known answers."""

import math

import numpy as np
import pytest
import torch

from m2ib_lightning import metrics
from m2ib_lightning.metrics import (
    contrast_to_noise_ratio,
    mean_iou,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    signed_contrast_to_noise_ratio,
)

TRUTH = torch.zeros(8, 8, dtype=torch.bool)
TRUTH[2:4, 1:5] = True  # 8 of 64 pixels
PERFECT = TRUTH.float()
PLACES = [pointing_game, relevance_mass_accuracy, relevance_rank_accuracy, mean_iou]


@pytest.mark.parametrize("function", PLACES)
def test_a_perfect_map_scores_1_and_an_inverted_one_0(function):
    assert function(PERFECT, TRUTH) == 1
    assert function(1 - PERFECT, TRUTH) == 0


@pytest.mark.parametrize("function", PLACES)
def test_a_constant_map_scores_what_chance_does(function):
    assert float(function(torch.full((8, 8), 0.7), TRUTH)) == pytest.approx(8 / 64)


def test_a_map_of_zeros_counts_as_constant():
    for function in (pointing_game, relevance_mass_accuracy, relevance_rank_accuracy):
        assert float(function(torch.zeros(8, 8), TRUTH)) == pytest.approx(8 / 64)
    assert mean_iou(torch.zeros(8, 8), TRUTH) == 0


@pytest.mark.parametrize("function", [pointing_game, relevance_mass_accuracy, relevance_rank_accuracy])
def test_random_maps_score_what_chance_does(function):
    maps = torch.rand(4000, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(function(maps, TRUTH.expand(4000, 8, 8)).mean()) == pytest.approx(8 / 64, abs=0.015)


@pytest.mark.parametrize("function", PLACES)
def test_a_truth_that_covers_everything_scores_1(function):
    assert function(torch.linspace(0.6, 1, 64).reshape(8, 8), torch.ones(8, 8, dtype=torch.bool)) == 1


@pytest.mark.parametrize("function", [*PLACES, contrast_to_noise_ratio])
def test_a_map_with_nan_or_of_another_shape_is_refused(function):
    with pytest.raises(ValueError, match="finite map"):
        function(torch.full((8, 8), math.nan), TRUTH)
    with pytest.raises(ValueError, match="one shape"):
        function(torch.zeros(4, 4), TRUTH)


CLASSES = [
    metrics.PointingGame, metrics.RelevanceMassAccuracy, metrics.RelevanceRankAccuracy, metrics.MeanIoU,
    metrics.ContrastToNoiseRatio,
]  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES)
def test_a_pair_without_truth_is_left_out_and_counted(kind):
    metric = kind()
    graded = PERFECT * 0.9 + torch.linspace(0, 0.05, 64).reshape(8, 8)
    metric.update(graded, TRUTH)
    metric.update(graded, torch.zeros_like(TRUTH))
    assert metric.left_out == 1 and len(metric.values) == 2
    torch.testing.assert_close(metric.compute(), kind.function(graded, TRUTH))


def test_several_pairs_at_once_are_as_one_by_one():
    generator = torch.Generator().manual_seed(1)
    maps, truths = torch.rand(5, 6, 7, generator=generator), torch.rand(5, 6, 7, generator=generator) > 0.7
    for kind in CLASSES:
        together, apart = kind(), kind()
        together.update(maps, truths)
        for m, t in zip(maps, truths, strict=True):
            apart.update(m, t)
        torch.testing.assert_close(together.values, apart.values)


def test_the_tolerance_of_pointing_is_a_disc():
    point = torch.zeros(8, 8)
    point[5, 6] = 1  # (2, 2) beside the corner (3, 4) of the truth: sqrt(8) = 2.83 away
    assert pointing_game(point, TRUTH, tolerance=2) == 0
    assert pointing_game(point, TRUTH, tolerance=3) == 1


def test_a_place_exactly_at_the_tolerance_is_near_enough_in_each_direction():
    for row, column in ((6, 4), (6, 1), (2, 7), (3, 7)):  # 3 below, and 3 to the right of the truth's edge
        point = torch.zeros(8, 8)
        point[row, column] = 1
        assert [float(pointing_game(point, TRUTH, tolerance)) for tolerance in (2, 3)] == [0, 1]
    assert metrics.PointingGame().tolerance == 0
    metric = metrics.PointingGame(3)
    metric.update(point, TRUTH)
    assert metric.compute() == 1
    metric.update(torch.stack([point, PERFECT]), TRUTH.expand(2, 8, 8))
    assert metric.values.tolist() == [1, 1, 1]


def test_a_truth_of_one_pixel_and_maps_of_little_mass_are_scored_as_others():
    truth = torch.tensor([[True, False, False]])
    saliency = torch.tensor([[0.3, 0.1, 0.2]])
    assert float(relevance_mass_accuracy(saliency, truth)) == pytest.approx(0.5)
    assert float(relevance_rank_accuracy(saliency, truth)) == 1
    assert float(relevance_rank_accuracy(saliency.roll(1, -1), truth)) == 0
    assert float(relevance_rank_accuracy(torch.tensor([[0.3, 0.3, 0.2]]), truth)) == 0.5  # a tie for one place
    # Inside 0.3 alone; outside 0.1 and 0.2, whose mean is 0.15 and whose deviation 0.05.
    assert float(contrast_to_noise_ratio(saliency, truth)) == pytest.approx(0.15 / 0.05, rel=1e-5)
    assert float(contrast_to_noise_ratio(saliency, ~truth)) == pytest.approx(0.15 / 0.05, rel=1e-5)
    with pytest.raises(ValueError, match="map in"):
        mean_iou(-saliency, truth)


def slow_rank(saliency, truth):
    """Quantus' way: sort, take K, count; by hand, without ties."""
    best = np.argsort(-saliency.ravel())[: int(truth.sum())]
    return truth.ravel()[best].mean()


def slow_iou(saliency, truth):
    overlaps = []
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.5):
        both = either = 0
        for value, inside in zip(saliency.ravel(), truth.ravel(), strict=True):
            both += value > threshold and inside
            either += value > threshold or inside
        overlaps.append(both / either)
    return np.mean(overlaps)


def slow_contrast(saliency, truth):
    inside, outside = saliency[truth], saliency[~truth]
    return abs(inside.mean() - outside.mean()) / np.sqrt(inside.var() + outside.var())


@pytest.mark.parametrize("seed", range(10))
def test_places_agree_with_slow_references(seed):
    rng = np.random.default_rng(seed)
    saliency, truth = rng.random((9, 7)), rng.random((9, 7)) > 0.6
    ours = torch.from_numpy(saliency), torch.from_numpy(truth)
    assert float(relevance_rank_accuracy(*ours)) == pytest.approx(slow_rank(saliency, truth), rel=1e-6)
    assert float(mean_iou(*ours)) == pytest.approx(slow_iou(saliency, truth), rel=1e-6)
    assert float(contrast_to_noise_ratio(*ours)) == pytest.approx(slow_contrast(saliency, truth), rel=1e-6)
    mass = saliency[truth].sum() / saliency.sum()
    assert float(relevance_mass_accuracy(*ours)) == pytest.approx(mass, rel=1e-6)


def test_contrast_to_noise_of_known_maps():
    # Inside 2 and 4 (mean 3, variance 1), outside 0 and 2 (mean 1, variance 1): 2 / sqrt 2
    saliency, truth = torch.tensor([[2.0, 4.0], [0.0, 2.0]]), torch.tensor([[True, True], [False, False]])
    assert float(contrast_to_noise_ratio(saliency, truth)) == pytest.approx(math.sqrt(2))
    assert float(signed_contrast_to_noise_ratio(-saliency, truth)) == pytest.approx(-math.sqrt(2))
    assert contrast_to_noise_ratio(torch.full((2, 2), 0.1), truth) == 0
    assert contrast_to_noise_ratio(truth.float(), truth) == math.inf
    assert contrast_to_noise_ratio(saliency, torch.ones(2, 2, dtype=torch.bool)).isnan()


def test_a_map_beyond_0_to_1_has_no_iou():
    with pytest.raises(ValueError, match=r"map in \[0, 1\]"):
        mean_iou(2 * PERFECT, TRUTH)


def test_a_value_exactly_on_a_threshold_is_not_above_it():
    saliency, truth = torch.tensor([[0.5, 1.0]]), torch.tensor([[False, True]])
    assert float(mean_iou(saliency, truth, thresholds=[0.5])) == 1.0
    assert float(mean_iou(saliency, truth, thresholds=[0.4])) == 0.5
