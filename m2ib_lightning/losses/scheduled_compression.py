"""Compression whose weight moves to beta in the first steps."""

from __future__ import annotations

from m2ib_lightning.checks import check_at_least
from m2ib_lightning.losses.base import MovingTerm, Past
from m2ib_lightning.losses.compression import Compression


class ScheduledCompression(MovingTerm, Compression):
    """`compression`, weighted by beta times a factor that goes in a straight line from `start` to 1.

    beta_t = beta (start + (1 - start) min(1, t / steps)), t = 0, 1, ... the steps made. A start below 1 lets relevance
    find its tokens before they are paid for, one above 1 closes the masks first. Source: the annealing of the KL term
    of Bowman et al., CoNLL 2016 (arXiv 1511.06349).

    While beta rises the loss may rise as well: under `m2ib fit` give `--model.patience` as many steps.

    Args:
        start: Factor at the first step, >= 0.
        steps: Steps until beta is reached, >= 1.
        weight: What it is multiplied by in the total.

    Raises:
        ValueError: An argument is out of its range.
    """

    name = "compression"

    def __init__(self, start: float = 0.0, steps: int = 5, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_at_least("start", start, 0)
        check_at_least("steps", steps, 1)
        self.start, self.steps = start, steps

    def factor(self, past: Past) -> float:
        """How far the straight line has got, from `start` to 1."""
        return self.start + (1 - self.start) * min(1.0, len(past) / self.steps)
