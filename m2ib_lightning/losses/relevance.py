"""What the other modality still recognises."""

from __future__ import annotations

from einops import reduce
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.losses.base import Bottlenecked, LossTerm


def relevance(embedding: Tensor, other: Tensor) -> Tensor:
    """Cosine similarity with the other modality's clean embedding, meaned over the noise (equation 5 of M2IB).

    Args:
        embedding: (K, B, E) embeddings of the noisy samples.
        other: (B, E) clean embedding of the other modality.

    Returns:
        (B,) in [-1, 1].
    """
    return reduce(F.cosine_similarity(embedding.float(), other.float(), dim=-1), "k b -> b", "mean")


class Relevance(LossTerm):
    """`relevance`, which is maximised."""

    maximised = True

    def forward(self, tower: Bottlenecked) -> Tensor:
        """Cosine similarity through the bottleneck, (B,)."""
        return relevance(tower.embedding, tower.other)
