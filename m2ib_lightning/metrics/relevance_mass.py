"""How much of the map lies on the truth, for pixels and for tokens.

After Arras, Osman, Samek, CLEVR-XAI, Information Fusion 2022 (arXiv 2003.07258).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric, check_map, left_out


def mass_accuracy(saliency: Tensor, truth: Tensor, among: Tensor) -> Tensor:
    """Sum of max(E, 0) over M / sum of max(E, 0) over all; an all-zero map counts as a constant one.

    Args:
        saliency: The maps, (..., N).
        truth: M, (..., N) bool.
        among: (..., N) bool, what takes part.

    Returns:
        (...) in 0..1, nan where there is no truth.
    """
    check_map(saliency, truth)
    mass = saliency.clamp(min=0).double() * among
    mass = torch.where(mass.sum(-1, keepdim=True) > 0, mass, among.double())
    truth = truth & among
    return left_out(((mass * truth).sum(-1) / mass.sum(-1)).float(), ~truth.any(-1))


def relevance_mass_accuracy(saliency: Tensor, truth: Tensor) -> Tensor:
    """Share of the map's positive mass that lies on the truth, on raw values; higher is better.

    Args:
        saliency: The maps, (..., H, W).
        truth: (..., H, W) bool.

    Returns:
        (...) in 0..1, nan where there is no truth.

    >>> relevance_mass_accuracy(torch.tensor([[3.0, 1.0]]), torch.tensor([[True, False]]))
    tensor(0.7500)
    """
    values, inside = (rearrange(of, "... h w -> ... (h w)") for of in (saliency, truth))
    return mass_accuracy(values, inside, torch.ones_like(inside))


def token_mass_accuracy(saliency: Tensor, truth: Tensor, content: Tensor) -> Tensor:
    """Share of the text map's positive mass that lies on the true tokens, special tokens left out; higher is better.

    Args:
        saliency: The maps, (..., L).
        truth: The tokens that should be found, (..., L) bool.
        content: (..., L) bool, false for special tokens.

    Returns:
        (...) in 0..1, nan where there is no truth.
    """
    return mass_accuracy(saliency, truth, content)


class RelevanceMassAccuracy(PairMetric):
    """Share of the image map's mass on the truth; higher is better."""

    function = relevance_mass_accuracy
    takes = ("saliency", "truth")


class TokenMassAccuracy(PairMetric):
    """Share of the text map's mass on the true tokens; higher is better."""

    function = token_mass_accuracy
    takes = ("saliency", "truth", "content")
    modality = "text"
