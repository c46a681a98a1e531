"""The contract of a loss term."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from m2ib_lightning.types import Modality


class Bottlenecked(NamedTuple):
    """One tower of a batch of pairs, read through its bottleneck at one step: all that a loss term may look at.

    Attributes:
        modality: Which tower.
        alpha: (B, L, D) mask logits.
        lambda_: (B, L, D) in [0, 1], sigmoid(alpha).
        capacity: (B, L, D) nats, 0 for tokens that are not masked.
        open: (B, L) bool, the tokens that are masked.
        content: (B, L) bool, the masked tokens that stand for a part of the image or text (no CLS, BOS, EOS).
        grid: (gh, gw) of the content tokens if they are cells of an image, row by row, the same for all pairs.
        embedding: (K, B, E) embeddings of the K noisy samples.
        clean: (B, E) clean embedding of the same modality.
        other: (B, E) clean embedding of the other modality.
    """

    modality: Modality
    alpha: Tensor
    lambda_: Tensor
    capacity: Tensor
    open: Tensor
    content: Tensor
    grid: tuple[int, int] | None
    embedding: Tensor
    clean: Tensor
    other: Tensor


class LossTerm(nn.Module):
    """A term of the loss: a module whose `forward` gives one unweighted value per pair.

    The method weighs it, sums it over towers and pairs, and logs it as `loss/<name>`. A further term is one class in
    one file, named by `class_path` in the configuration.

    Args:
        weight: What it is multiplied by in the total.
    """

    name: str
    """How it is logged; the class's name in lower case unless given."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    def weight_at(self, beta: float) -> float:
        """Weight in the total, where the method's trade-off for the tower is `beta`."""
        return self.weight

    def forward(self, tower: Bottlenecked) -> Tensor:
        """Value per pair, (B,), to be minimised; a mean over the noise samples where it depends on them."""
        raise NotImplementedError
