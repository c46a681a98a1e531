"""`keep`: each pair compressed as far as possible while a share of its clean similarity is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from m2ib_lightning.types import Modality

GAIN = 10.0
"""How strongly a shortfall, as a share of what must be left, acts on the logarithm of beta."""

CLOSE, OPEN = 3.0, 6.0
"""How far the masks' logits are shifted at most at the end, down where too much is left and up where too little is."""

HALVINGS = 3
"""How often the range of the shift is halved."""

ERRORS, MARGIN = 2.0, 0.03
"""Standard errors, and the share of itself, by which more must be left than is asked for, so that it holds with other
noise as well: of two samples the standard error is often too small by luck."""

DRAWS: dict[Modality, int] = {"image": 1, "text": 4}
"""Steps' noise that a shift is tried with. A text's few tokens each weigh more, and its passes cost little."""


def least(clean: Tensor, keep: float) -> Tensor:
    """What must be left of a clean similarity c: c - (1 - keep) |c|, that is keep c where c is positive.

    A pair that does not match (c <= 0) may lose the same share of its size: it may become less similar by (1 - keep)
    |c| and no more.

    Args:
        clean: Similarities of any shape.
        keep: The share that must be left, in (0, 1].

    Example:
        >>> least(torch.tensor([0.5, -0.1, 0.0]), 0.9)
        tensor([ 0.4500, -0.1100,  0.0000])
    """
    return clean - (1 - keep) * clean.abs()


def beta_ratio(relevance: Tensor, wanted: Tensor) -> Tensor:
    """What a pair's beta is multiplied by while too little is left: exp(GAIN (r - w) / |w|), (B,), in 1e-4..1.

    A surplus does not raise it: while the masks are still open there is always one, and it says nothing.

    Args:
        relevance: r, what the masks of the step before left, (B,).
        wanted: w, what must be left, (B,).
    """
    surplus = (relevance - wanted) / wanted.abs().clamp(min=1e-2)
    return torch.exp((GAIN * surplus).clamp(-9.0, 0.0))


class Held(NamedTuple):
    """Masks and what they leave.

    Attributes:
        alpha: (B, L, D) mask logits.
        relevance: (B,) similarity that is left, a mean over noise samples.
        safe: (B,) what is left at least, `ERRORS` standard errors and `MARGIN` of that mean below it.
    """

    alpha: Tensor
    relevance: Tensor
    safe: Tensor

    @classmethod
    def of_samples(cls, alpha: Tensor, left: Tensor) -> Held:
        """From what is left with each of K noise samples, (K, B)."""
        count = len(left)
        error = left.std(0, correction=min(1, count - 1)) / count**0.5
        mean = left.mean(0)
        return cls(alpha, mean, mean - ERRORS * error - MARGIN * mean.abs())

    def replaced(self, rows: Tensor, other: Held) -> Held:
        """Others for the pairs that (B,) bool says."""
        alpha = torch.where(rearrange(rows, "b -> b 1 1"), other.alpha, self.alpha)
        return Held(alpha, *(torch.where(rows, b, a) for a, b in zip(self[1:], other[1:], strict=True)))


def compress_until(look: Callable[[Tensor], Held], alpha: Tensor, wanted: Tensor) -> Held:
    """The masks alpha + s with the smallest s, one number for each pair, that leave what is wanted, by bisection.

    All channels open or close together, so what the fit found to matter most stays what matters most. Where no s does,
    even with open masks, the one that leaves most.

    Args:
        look: Says what masks of such logits leave.
        alpha: (B, L, D) mask logits that were fitted.
        wanted: (B,) similarity that must be left.
    """
    best = look(alpha)
    holds = best.safe >= wanted
    # s = 6 t^2 above 0 and -3 t^2 below: finest where masks need least.
    low, high = torch.where(holds, -1.0, 0.0), torch.where(holds, 0.0, 1.0)
    for _ in range(HALVINGS):
        t = (low + high) / 2
        found = look(alpha + rearrange(torch.where(t > 0, OPEN, -CLOSE) * t.square(), "b -> b 1 1"))
        now = found.safe >= wanted
        best = best.replaced(now | (~holds & (found.safe > best.safe)), found)
        low, high, holds = torch.where(now, low, t), torch.where(now, t, high), holds | now
    if not bool(holds.all()):
        found = look(alpha + 4 * OPEN)
        best = best.replaced(~holds & (found.safe > best.safe), found)
    return best
