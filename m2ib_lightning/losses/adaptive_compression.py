"""Compression whose weight each pair finds for itself."""

from __future__ import annotations

import torch
from einops import reduce
from torch import Tensor

from m2ib_lightning.losses.base import MovingTerm, Past
from m2ib_lightning.losses.compression import Compression


class AdaptiveCompression(MovingTerm, Compression):
    """`compression`, as strong as a pair affords while `keep` of its similarity is left.

    beta_t = beta exp(rate sum_{s<t} (r_s - keep r_0)) with r_s the pair's relevance at step s; r_0 is what the open
    masks let through. Where more is left than must be, compression gets dearer, where less, cheaper. The last
    `<modality>/compression_weight` of a pair's history says what beta it got to. Source: the multiplicative update of
    the Lagrange multiplier in GECO, Rezende and Viola 2018 (arXiv 1810.00597), here for relevance >= keep r_0.

    The fit must have a term named "relevance". No pair converges while its weight moves: it makes all steps.

    Args:
        keep: Share of the similarity that is to be left, > 0.
        rate: How fast the weight follows, per step and unit of cosine, >= 0; 3 overshoots within ten steps.
        weight: What it is multiplied by in the total.

    Raises:
        ValueError: An argument is out of its range.
    """

    name = "compression"

    def __init__(self, keep: float = 0.9, rate: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        if not keep > 0 or not rate >= 0:
            raise ValueError(
                f"Expected `keep` above 0 and `rate` of at least 0 but got {keep} and {rate}. Remedy: 0.9 and 1."
            )
        self.keep, self.rate = keep, rate

    def factor(self, past: Past) -> float | Tensor:
        """What each pair's beta has been multiplied by so far, (B,); 1 at the first step.

        Raises:
            ValueError: The fit has no term named "relevance".
        """
        if not past:
            return 1.0
        if "relevance" not in past[0]:
            raise ValueError("Expected a term named 'relevance' in the fit. Remedy: add Relevance to `loss_terms`.")
        relevance = torch.stack([step["relevance"] for step in past])  # (steps, B)
        surplus = reduce(relevance - self.keep * relevance[0], "steps b -> b", "sum")
        return torch.exp(self.rate * surplus)
