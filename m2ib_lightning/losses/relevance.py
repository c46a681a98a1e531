"""What the other modality still recognises."""

from __future__ import annotations

from einops import reduce
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.losses.base import Bottlenecked, LossTerm


def along(embedding: Tensor, target: Tensor) -> Tensor:
    """How far normalised embeddings point along a direction: their cosine similarity if that is of length 1.

    Args:
        embedding: (..., B, E), of any length.
        target: (B, E); a difference of two normalised embeddings is not of length 1 and stays so.

    Returns:
        (..., B), between minus and plus the length of the direction.

    Example:
        >>> import torch
        >>> along(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.5]]))  # 0.5 * 4 / 5
        tensor([0.4000])
    """
    # A sum of products: autocast would make an inner product one of half precision.
    return reduce(F.normalize(embedding.float(), dim=-1) * target.float(), "... e -> ...", "sum")


def relevance(embedding: Tensor, target: Tensor) -> Tensor:
    """`along` the target, meaned over the noise: equation 5 of M2IB where the target is the other modality.

    Args:
        embedding: (K, B, E) embeddings of the noisy samples.
        target: The direction that embeddings are measured along, (B, E).

    Returns:
        (B,), in [-1, 1] for a target of length 1.
    """
    return along(embedding, target).mean(0)


class Relevance(LossTerm):
    """`relevance`, which is maximised."""

    maximised = True

    def forward(self, tower: Bottlenecked) -> Tensor:
        """How far what comes through the bottleneck points along the target, (B,)."""
        return relevance(tower.embedding, tower.target)
