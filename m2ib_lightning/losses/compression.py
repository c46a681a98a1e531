"""What the masks let through."""

from __future__ import annotations

from torch import Tensor

from m2ib_lightning.losses.base import Bottlenecked, LossTerm, mean_of_open


def compression(capacity: Tensor, is_open: Tensor) -> Tensor:
    """Mean capacity of the masked tokens and channels, equation 4 of M2IB (the bound on I(z; h)).

    Args:
        capacity: (B, L, D) nats.
        is_open: (B, L) bool, the tokens that count.

    Returns:
        (B,) nats per token and channel, >= 0.
    """
    return mean_of_open(capacity, is_open)


class Compression(LossTerm):
    """`compression`, weighed by the tower's beta: what a nat costs against similarity."""

    weighed_by_beta = True

    def forward(self, tower: Bottlenecked) -> Tensor:
        """The mean capacity of each pair, (B,)."""
        return compression(tower.capacity, tower.open)
