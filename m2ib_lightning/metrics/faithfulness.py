"""Infidelity and maximum sensitivity (Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019).

As Captum defines them.
"""

from __future__ import annotations

from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric, check_map


def max_sensitivity(saliency: Tensor, perturbed: Tensor) -> Tensor:
    """Max over k of ||E(x + d_k) - E(x)|| / ||E(x)||, Frobenius norms; lower is better.

    Args:
        saliency: E(x), the maps, (..., N).
        perturbed: E(x + d_k), (K, ..., N).

    Returns:
        (...) >= 0; the difference itself where E(x) is 0, as Captum does.
    """
    check_map(saliency)
    check_map(perturbed)
    norm = saliency.norm(dim=-1)
    norm = norm.where(norm > 0, norm.new_ones(()))
    return ((perturbed - saliency).norm(dim=-1) / norm).amax(0)


def infidelity(predicted: Tensor, actual: Tensor, normalize: bool = True) -> Tensor:
    """Mean over k of (s I_k.E - (f(x) - f(x - I_k)))^2; lower is better.

    Args:
        predicted: I_k.E, (K, ...): the perturbation times the map.
        actual: f(x) - f(x - I_k), (K, ...).
        normalize: Whether s is the factor that makes it least, mean(p a) / mean(p^2), since the maps of most methods
            are in no unit of f; else s = 1.

    Returns:
        (...) >= 0, in squared units of f.
    """
    scale = predicted.new_ones(())
    if normalize:
        power = predicted.square().mean(0)
        scale = (predicted * actual).mean(0) / power.where(power > 0, power.new_ones(()))
    return (scale * predicted - actual).square().mean(0)


class MaxSensitivity(PairMetric):
    """Largest relative change of the map when the input changes a little; lower is better."""

    function = max_sensitivity
    takes = ("values", "perturbed")
    bounds = (0.0, float("inf"))
    higher_is_better = False


class Infidelity(PairMetric):
    """Squared error of the changes of the score that the map predicts, up to a factor; lower is better."""

    function = infidelity
    takes = ("predicted_falls", "falls")
    unit = "cos²"
    bounds = (0.0, float("inf"))
    higher_is_better = False
