"""Contrast between pictures and captions where more than one pair of a batch may match."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def matches(shown: Tensor, named: Tensor) -> Tensor:
    """(B, B) bool, picture by caption: whether the picture shows all that the caption says.

    Args:
        shown: (B, terms) bool, what is in the pictures.
        named: (B, terms) bool, what the captions say.
    """
    missing = (~shown).float() @ named.float().T
    return missing == 0


def multi_positive_loss(logits: Tensor, match: Tensor) -> Tensor:
    """Mean over the matches of -log p(match | it and all that do not match), rows being softmaxes.

    Supervised contrast (Khosla et al. 2020, "out") with the other positives left out of the denominator.
    """
    negatives = logits.masked_fill(match, -torch.inf).logsumexp(1, keepdim=True)
    per_match = F.softplus(negatives - logits) * match
    return (per_match.sum(1) / match.sum(1).clamp(min=1)).sum() / match.any(1).sum().clamp(min=1)


def both_ways(logits: Tensor, match: Tensor) -> Tensor:
    """`multi_positive_loss` of rows and of columns, added."""
    return multi_positive_loss(logits, match) + multi_positive_loss(logits.T, match.T)


def sigmoid_loss(logits: Tensor, match: Tensor) -> Tensor:
    """Sum over the columns, mean over the rows, of -log sigmoid(+-logit) (Zhai et al. 2023)."""
    return -F.logsigmoid(torch.where(match, logits, -logits)).sum(1).mean()
