import math

import numpy as np
import pytest
import torch

from m2ib_lightning.losses import ContrastiveRelevance, contrastive_relevance
from tests.losses.made import tower


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_it_is_that_of_a_slow_float64_loop(seed, temperature):
    seen, negatives = tower(seed=seed), torch.randn(6, 8, generator=torch.Generator().manual_seed(seed + 100))

    def cosine(a, b):
        return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))

    noisy, other, rivals = (x.double().numpy() for x in (seen.embedding, seen.other, negatives))
    expected = []
    for b in range(2):
        losses = []
        for sample in noisy[:, b]:
            positive = math.exp(cosine(sample, other[b]) / temperature)
            losses.append(
                -math.log(positive / (positive + sum(math.exp(cosine(sample, n) / temperature) for n in rivals)))
            )
        expected.append(sum(losses) / len(losses))
    found = contrastive_relevance(seen.embedding, seen.other, negatives, temperature).double()
    # Cosines are right to 1e-7 and are divided by the temperature.
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_a_pairs_own_other_half_is_no_negative_of_it():
    seen = tower()
    negatives = torch.randn(3, 8)
    with_own = torch.cat([negatives, 2 * seen.other[:1]])
    found = contrastive_relevance(seen.embedding, seen.other, with_own)
    without = contrastive_relevance(seen.embedding, seen.other, negatives)
    torch.testing.assert_close(found[0], without[0])
    assert found[1] > without[1]


def test_without_any_negative_there_is_nothing_to_tell_apart():
    seen = tower()
    assert contrastive_relevance(seen.embedding, seen.other, torch.zeros(0, 8)).tolist() == [0, 0]


def test_each_tower_is_told_from_negatives_of_the_other_modality():
    asked = []

    def embed(modality, items):
        asked.append((modality, items))
        return torch.randn(len(items), 8)

    term = ContrastiveRelevance(captions=["a cat", "a dog"])
    term.prepare(embed)
    assert asked == [("text", ["a cat", "a dog"])]
    assert (term(tower("image")) > 0).all() and term(tower("text", None)).tolist() == [0, 0]
    term = ContrastiveRelevance(images=["cat.png"])
    term.prepare(embed)
    assert term(tower("image")).tolist() == [0, 0] and (term(tower("text", None)) > 0).all()


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="Expected negatives"):
        ContrastiveRelevance()
    with pytest.raises(ValueError, match="`temperature` to be above 0"):
        ContrastiveRelevance(["a cat"], temperature=0)


def test_by_default_similarities_are_divided_by_seven_hundredths_and_the_term_counts_once():
    seen, negatives = tower(), torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    assert (ContrastiveRelevance(["a cat"]).temperature, ContrastiveRelevance(["a cat"]).weight) == (0.07, 1.0)
    assert (ContrastiveRelevance(["a cat"], temperature=1.5).temperature) == 1.5
    assert ContrastiveRelevance(images=["cat.png"], weight=2.0).weight == 2.0
    found, told = (contrastive_relevance(seen.embedding, seen.other, negatives, *some) for some in ((), (0.07,)))
    torch.testing.assert_close(found, told)


def test_a_target_stands_for_the_cosine_with_the_other_half():
    # Cosines 0.6 with the target and 0.8 with the negative, of lengths 5 and 1, at temperature 1.
    embedding, negative = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[0.0, 1.0]])
    other, target = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    found = contrastive_relevance(embedding, other, negative, 1.0, target)
    torch.testing.assert_close(found, torch.tensor([math.log(1 + math.exp(0.8 - 0.6))]))


def test_a_negative_that_is_almost_the_other_half_still_counts():
    other = torch.tensor([[1.0, 0.0]])
    near, same = torch.tensor([[1.0, 0.01]]), torch.tensor([[1.0, 0.001]])  # cosines 0.99995 and 0.9999995
    found = [float(contrastive_relevance(other[None], other, negative, 1.0)) for negative in (near, same)]
    assert found == pytest.approx([math.log(2), 0.0], abs=1e-3)


def test_a_term_divides_by_its_own_temperature_and_looks_along_the_target():
    term = ContrastiveRelevance(["a cat"], temperature=0.5)
    negatives = torch.randn(1, 8, generator=torch.Generator().manual_seed(2))
    term.prepare(lambda modality, items: negatives)
    seen = tower()
    seen = seen._replace(target=-seen.target)
    expected = contrastive_relevance(seen.embedding, seen.other, negatives, 0.5, seen.target)
    torch.testing.assert_close(term(seen), expected)
    assert not torch.allclose(expected, contrastive_relevance(seen.embedding, seen.other, negatives, 0.5))
