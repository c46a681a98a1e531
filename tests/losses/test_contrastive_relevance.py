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
