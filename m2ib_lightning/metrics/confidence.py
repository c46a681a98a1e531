"""What the model still sees of a pair when one input is multiplied by its map.

With o the cosine of the clean pair and s the cosine with the masked input: drop 100 max(0, o - s), increase
100 where s > o. As pytorch-grad-cam's `cam_mult_image`, after Chattopadhay et al., Grad-CAM++, WACV 2018.
"""

from __future__ import annotations

from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric


def confidence_drop(original: Tensor, explained: Tensor) -> Tensor:
    """100 max(0, o - s), in hundredths of cosine, 0..200; lower is better.

    >>> import torch
    >>> confidence_drop(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
    tensor([25.,  0.])
    """
    return 100 * (original - explained).clamp(min=0)


def confidence_increase(original: Tensor, explained: Tensor) -> Tensor:
    """100 where the masked input scores above the clean one, else 0; percent, higher is better."""
    return 100 * (explained > original).float()


class _Confidence(PairMetric):
    takes = ("score", "masked_score")
    bounds = (0.0, 100.0)


class ConfidenceDrop(_Confidence):
    """Mean fall of the cosine when the input is multiplied by its map, in hundredths; lower is better."""

    function = confidence_drop
    unit = "100 cos"
    bounds = (0.0, 200.0)
    higher_is_better = False


class ConfidenceIncrease(_Confidence):
    """Share of pairs whose cosine rises when the input is multiplied by its map, in percent; higher is better."""

    function = confidence_increase
    unit = "%"
