"""Intervals of known values."""

import numpy as np
import pytest

from m2ib_lightning.evaluation.bootstrap import interval, paired_interval

VALUES = np.random.default_rng(7).normal(2, 3, 7)


def slow(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float, float, int]:
    """Means of samples with replacement, one at a time, and what 2.5 and 97.5 % of them lie below."""
    places = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    means = sorted(sum(float(values[i]) for i in row) / len(values) for row in places)

    def below(share: float) -> float:
        place = share * (resamples - 1)
        low = int(place)
        return means[low] + (place - low) * (means[min(low + 1, resamples - 1)] - means[low])

    return float(values.mean()), below(0.025), below(0.975), len(values)


@pytest.mark.parametrize(("resamples", "seed"), [(2000, 0), (37, 5)])
def test_an_interval_is_that_of_means_of_samples_with_replacement(resamples, seed):
    found = interval([*VALUES, np.nan, np.inf], resamples, seed)
    assert tuple(found) == pytest.approx(slow(VALUES, resamples, seed))
    assert tuple(paired_interval(VALUES + 1, np.ones(7), resamples, seed)) == pytest.approx(tuple(found))


def test_two_thousand_samples_of_the_seed_0_are_taken_unless_others_are_asked_for():
    assert interval(VALUES) == interval(VALUES, 2000, 0) == paired_interval(VALUES, np.zeros(7))
    assert interval(VALUES) not in (interval(VALUES, 2001), interval(VALUES, seed=1))


def test_no_value_has_no_mean():
    mean, low, high, pairs = interval([np.nan, np.inf])
    assert np.isnan([mean, low, high]).all() and pairs == 0
    assert interval([]).pairs == 0
