"""What the other modality still recognises."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.losses.base import Bottlenecked, LossTerm, Past


def relevance(embedding: Tensor, other: Tensor) -> Tensor:
    """Cosine similarity with the other modality's clean embedding, meaned over the noise (equation 5 of M2IB).

    Args:
        embedding: (K, B, E) embeddings of the noisy samples.
        other: (B, E) clean embedding of the other modality.

    Returns:
        (B,) in [-1, 1].
    """
    return F.cosine_similarity(embedding.float(), other.float()[None], dim=-1).mean(0)


class Relevance(LossTerm):
    """`relevance`, which is maximised: its weight in the total is negative."""

    def weight_at(self, beta: float, past: Past = ()) -> float:
        """Minus `weight`."""
        return -self.weight

    def forward(self, tower: Bottlenecked) -> Tensor:
        """Cosine similarity through the bottleneck, (B,)."""
        return relevance(tower.embedding, tower.other)
