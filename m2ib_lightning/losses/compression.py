"""What the masks let through."""

from __future__ import annotations

from torch import Tensor

from m2ib_lightning.losses.base import Bottlenecked, LossTerm, Past


def compression(capacity: Tensor, is_open: Tensor) -> Tensor:
    """Mean capacity of the masked tokens and channels, equation 4 of M2IB (the bound on I(z; h)).

    Args:
        capacity: (B, L, D) nats.
        is_open: (B, L) bool, the tokens that count.

    Returns:
        (B,) nats per token and channel, >= 0.
    """
    per_token = (capacity * is_open[..., None]).sum((1, 2))
    return per_token / (is_open.sum(1).clamp(min=1) * capacity.shape[2])


class Compression(LossTerm):
    """`compression`, weighted by the tower's beta."""

    def weight_at(self, beta: float, past: Past = ()) -> float | Tensor:
        """`weight` times beta: what a nat costs against similarity."""
        return self.weight * beta

    def forward(self, tower: Bottlenecked) -> Tensor:
        """Mean capacity, (B,)."""
        return compression(tower.capacity, tower.open)
