"""Metrics of tokens, scores and pairs of maps, against scikit-learn, scipy, Captum and hand-computed values."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import auc, roc_auc_score

from m2ib_lightning import metrics
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.contracts import ContractError
from m2ib_lightning.evaluation.evidence import PairEvidence
from m2ib_lightning.metrics import (
    area_under_curve,
    confidence_drop,
    confidence_increase,
    infidelity,
    max_sensitivity,
    pearson,
    spearman,
    token_auroc,
    token_mass_accuracy,
)
from m2ib_lightning.types import Truth

CONTENT = torch.tensor([False, True, True, True, True, False])
NAMED = torch.tensor([False, False, True, True, False, False])


@pytest.mark.parametrize("seed", range(20))
def test_token_auroc_is_that_of_scikit_learn_ties_included(seed):
    rng = np.random.default_rng(seed)
    values, truth = rng.integers(0, 5, 12) / 4, rng.random(12) > 0.6
    truth[:2] = True, False
    content = rng.random(12) > 0.2
    content[:2] = True
    ours = token_auroc(*(torch.from_numpy(x) for x in (values, truth, content)))
    assert float(ours) == pytest.approx(roc_auc_score(truth[content], values[content]), abs=1e-6)


def test_words_are_counted_and_not_their_pieces():
    text = "a tangerine beside a sax"
    spans = [(0, 1), (2, 3), (3, 5), (5, 8), (8, 11), (12, 18), (19, 20), (21, 23), (23, 24)]
    pieces = ["a", "t", "an", "ger", "ine", "beside", "a", "sa", "x"]
    values = np.array([3, 1, 2, 30, 4, 5, 2, 1, 14], np.float32)
    a = Attribution("", text, None, values, pieces, np.zeros(9, bool), spans, 0.5)
    seen = PairEvidence(SimpleNamespace(attributions=[a], truths=[Truth(None, [(2, 11), (21, 24)])]), 0)
    by_piece = token_auroc(*(seen.saliency("text"), seen.truth("text"), seen.content("text")))
    assert float(by_piece) == pytest.approx(8.5 / 18)
    # tangerine (1 + 2 + 30 + 4) / 4, sax (1 + 14) / 2, before beside 5, a 3 and a 2
    assert seen.words("text").tolist() == [3, 9.25, 5, 2, 7.5] and metrics.TokenAUROC().observe(seen) == 1


def test_a_map_of_equal_values_and_a_random_one_rank_a_split_word_by_chance():
    spans = [(0, 1), (2, 3), (3, 4), (4, 5), (5, 6), (7, 8), (9, 10)]
    found = []
    for seed in range(400):
        values = np.random.default_rng(seed).random(7).astype(np.float32) if seed else np.ones(7, np.float32)
        a = Attribution("", "a bcde f g", None, values, list("abcdefg"), np.zeros(7, bool), spans, 0.5)
        seen = PairEvidence(SimpleNamespace(attributions=[a], truths=[Truth(None, [(2, 6)])]), 0)
        found.append(metrics.TokenAUROC().observe(seen))
    assert found[0] == 0.5 and np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_tokens_of_known_maps():
    for function, constant in ((token_auroc, 0.5), (token_mass_accuracy, 0.5)):
        assert function(NAMED.float(), NAMED, CONTENT) == 1
        assert function(1.0 - NAMED.float(), NAMED, CONTENT) == 0
        assert function(torch.ones(6), NAMED, CONTENT) == constant
        with pytest.raises(ValueError, match="finite map"):
            function(torch.full((6,), math.nan), NAMED, CONTENT)
        assert function(torch.ones(6), torch.zeros(6, dtype=torch.bool), CONTENT).isnan()
    assert token_auroc(torch.ones(6), torch.ones(6, dtype=torch.bool), CONTENT).isnan()
    assert token_mass_accuracy(torch.ones(6), torch.ones(6, dtype=torch.bool), CONTENT) == 1


def test_special_tokens_do_not_count():
    high = torch.tensor([100.0, 1.0, 2.0, 3.0, 0.0, 100.0])
    assert token_auroc(high, NAMED, CONTENT) == 1
    assert float(token_mass_accuracy(high, NAMED, CONTENT)) == pytest.approx(5 / 6)


def test_negative_values_have_no_mass():
    values = torch.tensor([0.0, -5.0, 1.0, 1.0, 2.0, 0.0])
    assert float(token_mass_accuracy(values, NAMED, CONTENT)) == pytest.approx(0.5)


def test_confidence_of_known_scores():
    original, explained = torch.tensor([0.5, 0.25, 0.5]), torch.tensor([0.25, 0.5, 0.5])
    torch.testing.assert_close(confidence_drop(original, explained), torch.tensor([25.0, 0, 0]))
    torch.testing.assert_close(confidence_increase(original, explained), torch.tensor([0.0, 100, 0]))
    metric = metrics.ConfidenceDrop("text")
    metric.update(original, explained)
    assert float(metric.compute()) == pytest.approx(25 / 3)
    assert metric.name == "text/ConfidenceDrop" and metric.higher_is_better is False


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_areas_are_those_of_scikit_learn(steps):
    curves = torch.rand(4, steps + 1, generator=torch.Generator().manual_seed(steps))
    expected = [auc(np.linspace(0, 1, steps + 1), c) for c in curves.double().numpy()]
    torch.testing.assert_close(area_under_curve(curves), torch.tensor(expected, dtype=torch.float32))
    with pytest.raises(ValueError, match="two or more"):
        area_under_curve(torch.zeros(1))


@pytest.mark.parametrize("seed", range(10))
def test_spearman_is_that_of_scipy_ties_included(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, 30)).astype(float)
    ours = spearman(torch.from_numpy(a), torch.from_numpy(b))
    assert float(ours) == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_pearson_is_that_of_scipy(seed):
    a, b = np.random.default_rng(seed).normal(3, 2, (2, 30))
    ours = pearson(torch.from_numpy(a), torch.from_numpy(b))
    assert float(ours) == pytest.approx(pearsonr(a, b).statistic, abs=1e-6)


def test_pearson_of_a_constant_map_is_left_out():
    rows = torch.stack([torch.full((9,), 0.1), torch.arange(9.0)])
    assert pearson(rows, torch.arange(9.0).expand(2, 9)).isnan().tolist() == [True, False]


def test_a_nonsense_prompt_that_lights_up_another_patch_is_told_from_the_caption():
    # 64 patches: one of 5 nats each, elsewhere; the rest below 1e-3 nats and in the same order.
    rest = torch.linspace(0, 1e-3, 64)
    first, second = rest.index_fill(0, torch.tensor([9]), 5.0), rest.index_fill(0, torch.tensor([40]), 5.0)
    metric = metrics.NonsensePrompt()
    metric.update(first, second)
    assert float(metric.compute()) == pytest.approx(-1 / 63, abs=1e-3)
    assert float(spearman(first, second)) > 0.8


def test_spearman_of_known_maps():
    a = torch.arange(9.0)
    assert float(spearman(a, a.exp())) == pytest.approx(1)
    assert float(spearman(a, -a)) == pytest.approx(-1)
    assert spearman(a, torch.ones(9)).isnan()
    metric = metrics.RandomisationSimilarity("text")
    metric.update(a, torch.ones(9))
    assert metric.left_out == 1


def test_sensitivity_is_that_of_captum():
    from captum.metrics import sensitivity_max

    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    moves = iter([0.1, -0.2, 0.05])

    def explain(inputs):
        return inputs**2 if isinstance(inputs, torch.Tensor) else (inputs[0] ** 2,)

    def move(inputs):
        by = next(moves)
        return inputs + by if isinstance(inputs, torch.Tensor) else (inputs[0] + by,)

    expected = sensitivity_max(explain, (x,), perturb_func=move, n_perturb_samples=3, max_examples_per_batch=3)
    ours = max_sensitivity(x**2, torch.stack([(x + d) ** 2 for d in (0.1, -0.2, 0.05)]))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_that_of_captum(normalize):
    from captum.metrics import infidelity as captum_infidelity

    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    noise = torch.randn(8, 3, 5, generator=generator)
    turn = iter(noise)

    def f(inputs):
        return (inputs**3).sum(-1)

    def perturb(inputs):
        move = next(turn)
        return move, inputs - move

    expected = captum_infidelity(f, perturb, x, e, n_perturb_samples=8, max_examples_per_batch=3, normalize=normalize)
    ours = infidelity((noise * e).sum(-1), f(x) - f(x - noise), normalize)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_correlation_does_not_depend_on_how_large_the_values_are():
    a, b = torch.rand(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for function in (pearson, spearman):
        expected = float(function(a, b))
        assert 0 < abs(expected) < 1
        for scale in (1e-5, 1e5):
            assert float(function(scale * a, scale * b + 3)) == pytest.approx(expected, abs=1e-5)


def test_sensitivity_and_infidelity_of_known_values():
    # Differences of norm 0.5 and 0.1 beside a map of norm 0.5; beside a map of zeros the differences themselves.
    saliency = torch.tensor([[0.3, 0.4], [0.0, 0.0]])
    perturbed = torch.stack([saliency + torch.tensor([0.3, 0.4]), saliency + torch.tensor([0.0, 0.1])])
    torch.testing.assert_close(max_sensitivity(saliency, perturbed), torch.tensor([1.0, 0.5]))
    predicted, actual = torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0])
    assert float(infidelity(predicted, actual)) == pytest.approx(0, abs=1e-10)  # up to a factor of 10
    assert float(infidelity(predicted, actual, normalize=False)) == pytest.approx((0.9**2 + 1.8**2) / 2)
    assert float(infidelity(torch.zeros(2), actual)) == 2.5


STATED = {
    "PointingGame": ("image", ("saliency", "truth"), "", (0, 1), True),
    "RelevanceMassAccuracy": ("image", ("saliency", "truth"), "", (0, 1), True),
    "RelevanceRankAccuracy": ("image", ("saliency", "truth"), "", (0, 1), True),
    "MeanIoU": ("image", ("heatmap", "truth"), "", (0, 1), True),
    "ContrastToNoiseRatio": ("image", ("saliency", "truth"), "", (0, math.inf), True),
    "TokenAUROC": ("text", ("words", "named"), "", (0, 1), True),
    "TokenMassAccuracy": ("text", ("saliency", "truth", "content"), "", (0, 1), True),
    "ConfidenceDrop": ("image", ("score", "masked_score"), "100 cos", (0, 200), False),
    "ConfidenceIncrease": ("image", ("score", "masked_score"), "%", (0, 100), True),
    "InsertionAUC": ("image", ("insertion",), "cos", (-1, 1), True),
    "DeletionAUC": ("image", ("deletion",), "cos", (-1, 1), False),
    "RandomisationSimilarity": ("image", ("values", "randomised"), "", (-1, 1), False),
    "NonsensePrompt": ("image", ("values", "nonsense"), "", (-1, 1), False),
    "MaxSensitivity": ("image", ("values", "perturbed"), "", (0, math.inf), False),
    "Infidelity": ("image", ("predicted_falls", "falls"), "cos²", (0, math.inf), False),
    "PhrasePointing": ("image", ("phrase_patches", "phrase_touched"), "", (0, 1), True),
    "PhraseMass": ("image", ("phrase_maps", "phrase_truths"), "", (0, 1), True),
    "PhraseLeak": ("image", ("phrase_maps", "phrase_others"), "", (0, 1), False),
    "PhraseRetrieval": ("image", ("phrase_maps", "phrase_truths"), "", (0, 1), True),
    "RegionWords": ("text", ("region_maps", "region_truths", "content"), "", (0, 1), True),
}
"""Of each metric what it scores, what it takes, its unit, its bounds, and whether more is better."""


def test_every_metric_states_direction_unit_and_range():
    kinds = {
        kind.__name__: kind
        for kind in (getattr(metrics, name) for name in metrics.__all__)
        if isinstance(kind, type) and issubclass(kind, metrics.PairMetric) and kind is not metrics.PairMetric
    }
    found = {
        name: (m.modality, m.takes, m.unit, m.bounds, m.higher_is_better)
        for name, m in ((name, kind()) for name, kind in kinds.items())
    }
    assert found == STATED
    for kind in kinds.values():
        metric = kind()
        assert metric.left_out == 0 and len(metric.values) == 0
        assert metric.keeps == (metric.takes if kind.__name__ in ("InsertionAUC", "DeletionAUC") else ())
    assert metrics.RandomisationSimilarity("text", by_layer=True).keeps == ("by_layer",)
    assert metrics.InsertionAUC("text").name == "text/InsertionAUC" and metrics.TokenAUROC().name == "text/TokenAUROC"


class Seen:
    """Evidence of a pair: what is named, None else."""

    def __init__(self, **known):
        for name in STATED_PARTS:
            setattr(self, name, lambda modality, name=name: known.get(name))


STATED_PARTS = {part for _, takes, *_ in STATED.values() for part in takes} | {"by_layer"}


def test_a_metric_keeps_a_value_a_pair_and_what_it_says_beside_it():
    metric = metrics.InsertionAUC("text")
    whole, lacking = Seen(insertion=torch.tensor([0.0, 1.0, 1.0])), Seen()
    assert metric.observe(whole) == 0.75 and math.isnan(metric.observe(lacking)) and metric.observe(whole) == 0.75
    assert metric.values.isnan().tolist() == [False, True, False] and metric.left_out == 1
    assert metric.compute() == 0.75
    assert metric.kept(whole) == {"text/insertion": [0, 1, 1]} and metric.kept(lacking) == {"text/insertion": None}
    assert metrics.PointingGame().inputs(Seen(saliency=torch.ones(1, 1))) is None
    metric.per_pair = torch.tensor([1.0, math.nan])  # as torchmetrics leaves it where processes share the pairs
    assert metric.left_out == 1 and metric.values[0] == 1


def test_a_metric_computes_once_when_it_is_called_and_gives_one_value_for_a_pair():
    calls = []

    class Twice(metrics.PairMetric):
        takes = ("score",)
        function = staticmethod(lambda score: calls.append(1) or score.expand(2))

    metric = Twice()
    assert metric(torch.tensor(3.0)) == 3 and len(calls) == 1 and metric.values.tolist() == [3, 3]
    with pytest.raises(ContractError, match="Expected Twice to return one value per pair"):
        metric.observe(Seen(score=torch.tensor(1.0)))


def test_a_metric_that_takes_or_keeps_what_is_not_known_of_a_pair_is_refused():
    for what in ("takes", "keeps"):
        kind = type("Wrong", (metrics.InsertionAUC,), {what: ("tarot",)})
        said = r"Wrong to take parts of Evidence but got 'tarot'\. Remedy: choose from saliency, heatmap, values, "
        with pytest.raises(ContractError, match=said) as raised:
            kind()
        assert str(raised.value).endswith(", predicted_falls, falls.") and ", _" not in str(raised.value)
