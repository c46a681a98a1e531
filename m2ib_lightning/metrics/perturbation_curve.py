"""Insertion and deletion: the cosine while the most relevant parts are put into, or taken from, the input.

After Petsiuk, Das, Saenko, RISE, BMVC 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric


def area_under_curve(curve: Tensor) -> Tensor:
    """Area under scores at equal steps of an axis of length 1, by trapezoids: (sum - half of both ends) / steps.

    Args:
        curve: (..., S + 1), S >= 1.

    Returns:
        (...), within the scores' range.

    Raises:
        ValueError: There are fewer than two scores, or one is not finite.

    >>> area_under_curve(torch.tensor([0.0, 1.0, 1.0]))
    tensor(0.7500)
    """
    if curve.shape[-1] < 2 or not torch.isfinite(curve).all():
        raise ValueError("Expected two or more finite scores. Remedy: take at least one step.")
    return (curve.sum(-1) - (curve[..., 0] + curve[..., -1]) / 2) / (curve.shape[-1] - 1)


class _CurveMetric(PairMetric):
    function = area_under_curve
    unit = "cos"
    bounds = (-1.0, 1.0)


class InsertionAUC(_CurveMetric):
    """Area under the cosine while the most relevant pixels (tokens) are inserted; higher is better."""

    takes = keeps = ("insertion",)


class DeletionAUC(_CurveMetric):
    """Area under the cosine while the most relevant pixels (tokens) are deleted; lower is better."""

    takes = keeps = ("deletion",)
    higher_is_better = False
