"""Intervals over pairs by the percentile bootstrap (Efron, 1979)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A mean with the interval that 95 % of resampled means fall into.

    Attributes:
        mean: Over the pairs with a value.
        low: The lower end of the interval.
        high: The upper end of the interval.
        pairs: How many have a value.
    """

    mean: float
    low: float
    high: float
    pairs: int


def interval(values: ArrayLike, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of values, one per pair, with its 95 % bootstrap interval; nan values are left out.

    >>> interval([1.0, 1.0, float("nan")])
    Interval(mean=1.0, low=1.0, high=1.0, pairs=2)
    """
    known = np.asarray(values, dtype=float)
    # An infinite contrast (a map of two values that the truth tells apart) has no mean.
    known = known[np.isfinite(known)]
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    means = known[rng.integers(0, len(known), (resamples, len(known)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(known.mean()), float(low), float(high), len(known))


def paired_interval(first: ArrayLike, second: ArrayLike, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of first - second over the same pairs, with its interval; pairs without both values are left out."""
    return interval(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), resamples, seed)
