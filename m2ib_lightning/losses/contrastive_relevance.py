"""What tells a pair's other half from given negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.losses.base import Bottlenecked, Embed, LossTerm
from m2ib_lightning.losses.relevance import along

SAME = 1 - 1e-5
"""Cosine from which on a negative is the positive itself."""


def contrastive_relevance(
    embedding: Tensor, other: Tensor, negatives: Tensor, temperature: float = 0.07, target: Tensor | None = None
) -> Tensor:
    """InfoNCE of the noisy embeddings, meaned over the noise.

    -log( exp(s+ / T) / (exp(s+ / T) + sum_n exp(s_n / T)) ) with s+ the cosine with the other half of the pair and s_n
    those with the negatives. Source: van den Oord, Li and Vinyals 2018 (arXiv 1807.03748), as in CLIP (2103.00020).

    Args:
        embedding: (K, B, E) embeddings of the noisy samples.
        other: (B, E) clean embedding of the other modality.
        negatives: (N, E) clean embeddings of the other modality. One that is a pair's own `other` does not count for
            that pair, so a list of all captions will do.
        temperature: T, what similarities are divided by, > 0.
        target: (B, E) direction that stands for s+ where it is not the cosine with `other`.

    Returns:
        (B,) nats, >= 0; about log(1 + N) where nothing is told apart, 0 without negatives.
    """
    embedding, other, negatives = (F.normalize(x.float(), dim=-1) for x in (embedding, other, negatives))
    positive = rearrange(along(embedding, other if target is None else target), "k b -> k b 1")
    own = other @ negatives.T > SAME  # (B, N)
    rivals = (embedding @ negatives.T).masked_fill(own, -torch.inf)  # (K, B, N)
    logits = torch.cat([positive, rivals], -1) / temperature
    return -logits.log_softmax(-1)[..., 0].mean(0)


class ContrastiveRelevance(LossTerm):
    """`contrastive_relevance` against captions and pictures that are given once and hold for every pair.

    The other captions of a batch would make a pair's result depend on its batch, so they are not taken: name the
    captions that a map should tell this one from, for example all classes or all captions of the data.

    Args:
        captions: What an image is told from; without any, the term is 0 for images.
        images: Files or pictures that a text is told from; without any, the term is 0 for texts.
        temperature: > 0; CLIP's learnt one is 0.01, a larger one asks for less.
        weight: What it is multiplied by in the total.

    Raises:
        ValueError: There are neither captions nor images, or the temperature is not above 0.
    """

    name = "contrastive_relevance"

    def __init__(
        self, captions: Sequence[str] = (), images: Sequence[str] = (), temperature: float = 0.07, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        if not captions and not images:
            raise ValueError("Expected negatives but got neither `captions` nor `images`. Remedy: give some of either.")
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` to be above 0 but got {temperature}. Remedy: CLIP's is 0.01.")
        self.captions, self.images, self.temperature = list(captions), list(images), temperature
        self.negatives: dict[str, Tensor] = {}

    def prepare(self, embed: Embed) -> None:
        """Embed the negatives, once before the first fit."""
        if self.captions:
            self.negatives["image"] = embed("text", self.captions)
        if self.images:
            self.negatives["text"] = embed("image", self.images)

    def forward(self, tower: Bottlenecked) -> Tensor:
        """The InfoNCE bound of each pair, (B,)."""
        if tower.modality not in self.negatives:
            return tower.lambda_.new_zeros(len(tower.lambda_))
        negatives = self.negatives[tower.modality].to(tower.other.device)
        return contrastive_relevance(tower.embedding, tower.other, negatives, self.temperature, tower.target)
