"""How far the map's values on the truth stand from those beside it (Boecking et al., BioViL, ECCV 2022)."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric, check_map, left_out


def signed_contrast_to_noise_ratio(saliency: Tensor, truth: Tensor) -> Tensor:
    """(mean in - mean out) / sqrt(var in + var out), population variances; negative for an inverted map.

    Args:
        saliency: The maps, (..., H, W).
        truth: (..., H, W) bool.

    Returns:
        (...), any real number; 0 for a constant map, infinite for two values that the truth tells apart, nan where
        there is nothing inside or nothing outside.
    """
    check_map(saliency, truth)
    values, inside = saliency.double(), truth.double()
    (mean_in, var_in), (mean_out, var_out) = _moments(values, inside), _moments(values, 1 - inside)
    difference, noise = mean_in - mean_out, (var_in + var_out).sqrt()
    # A constant map has no contrast; rounding must not make one.
    ratio = (difference / noise).masked_fill(values.amax((-2, -1)) == values.amin((-2, -1)), 0.0)
    return left_out(ratio.float(), ~(truth.flatten(-2).any(-1) & (~truth).flatten(-2).any(-1)))


def contrast_to_noise_ratio(saliency: Tensor, truth: Tensor) -> Tensor:
    """abs(mean in - mean out) / sqrt(var in + var out), as the BioViL protocol has it; higher is better.

    An inverted map scores as its original does; `signed_contrast_to_noise_ratio` tells them apart.

    Returns:
        (...) >= 0, nan where there is nothing inside or nothing outside.
    """
    return signed_contrast_to_noise_ratio(saliency, truth).abs()


def _moments(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    count = weight.sum((-2, -1)).clamp(min=1)
    mean = (values * weight).sum((-2, -1)) / count
    return mean, ((values - rearrange(mean, "... -> ... 1 1")).square() * weight).sum((-2, -1)) / count


class ContrastToNoiseRatio(PairMetric):
    """Contrast of the image map between truth and rest over its noise; higher is better, and the sign is ignored."""

    function = contrast_to_noise_ratio
    takes = ("saliency", "truth")
    bounds = (0.0, float("inf"))
