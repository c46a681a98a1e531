"""How many of the highest pixels lie on the truth (Arras, Osman, Samek, CLEVR-XAI, arXiv 2003.07258)."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric, check_map, left_out


def relevance_rank_accuracy(saliency: Tensor, truth: Tensor) -> Tensor:
    """Share of the K highest pixels that lie in M, with K the size of M; higher is better.

    Pixels that tie at the K-th place share the places that are left, as random tie-breaking does in the mean.

    Args:
        saliency: The maps, (..., H, W).
        truth: (..., H, W) bool.

    Returns:
        (...) in 0..1, nan where there is no truth.

    >>> import torch
    >>> relevance_rank_accuracy(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[True, False, True]]))
    tensor(0.5000)
    """
    check_map(saliency, truth)
    values, inside = (rearrange(of, "... h w -> ... (h w)") for of in (saliency, truth))
    size = inside.sum(-1, keepdim=True)
    place = (size - 1).clamp(min=0)
    least = values.sort(-1, descending=True).values.gather(-1, place)
    above, tied = values > least, values == least
    share = (size - above.sum(-1, keepdim=True)) / tied.sum(-1, keepdim=True)
    hits = (above & inside).sum(-1) + (share * (tied & inside)).sum(-1)
    return left_out(hits / rearrange(size, "... 1 -> ...").clamp(min=1), ~inside.any(-1))


class RelevanceRankAccuracy(PairMetric):
    """Share of the as many highest pixels as the truth has that lie on it; higher is better."""

    function = relevance_rank_accuracy
    takes = ("saliency", "truth")
