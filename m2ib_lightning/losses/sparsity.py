"""How much of the masks is open."""

from __future__ import annotations

from torch import Tensor

from m2ib_lightning.losses.base import Bottlenecked, LossTerm, mean_of_open


def sparsity(lambda_: Tensor, is_open: Tensor) -> Tensor:
    """Mean mask value of the masked tokens and channels, the L1 norm over their number.

    Unlike compression it does not ask what a channel carries: all of them cost the same. Source: the penalty |1 - m|_1
    of Fong and Vedaldi, ICCV 2017 (arXiv 1704.03296), where m is 1 for what is kept as it was.

    Args:
        lambda_: (B, L, D) in [0, 1].
        is_open: (B, L) bool, the tokens that count.

    Returns:
        (B,) in [0, 1].
    """
    return mean_of_open(lambda_, is_open)


class Sparsity(LossTerm):
    """`sparsity` of the masks."""

    def forward(self, tower: Bottlenecked) -> Tensor:
        """Mean mask value, (B,)."""
        return sparsity(tower.lambda_, tower.open)
