"""When a pair of a fit has had enough, each pair by itself."""

from __future__ import annotations

import torch
from torch import Tensor

REASONS = ("max_steps", "converged", "diverged", "non_finite")
"""Why a fit ends, by the number that is kept of it."""

CONVERGED, DIVERGED, NON_FINITE = 1, 2, 3
"""Those numbers, of the reasons that are a pair's own."""


class Stopping:
    """Follows the loss of each pair of a batch and says which ones still run.

    A pair has converged when its loss has not fallen by more than `tolerance` below its best for `patience` steps. It
    has diverged when its loss stands above the first by more than the first's size and more than 1. It stops as well
    where its loss is not finite. None of it depends on the other pairs.

    Args:
        count: B, how many pairs there are.
        tolerance: Least fall of the loss that counts, or None for no check of convergence.
        patience: Steps without such a fall that a pair is given, >= 1.
        device: Where the losses are.

    Attributes:
        running: (B,) bool.
        updates: (B,) int64, updates of a pair's masks before it stopped.
        reason: (B,) int64, index into `REASONS`; 0 while a pair runs.
    """

    FIELDS = ("running", "updates", "reason", "first", "best", "waited")

    def __init__(self, count: int, tolerance: float | None, patience: int, device: torch.device) -> None:
        self.tolerance, self.patience = tolerance, patience
        self.running = torch.ones(count, dtype=torch.bool, device=device)
        self.updates = torch.zeros(count, dtype=torch.long, device=device)
        self.reason = torch.zeros(count, dtype=torch.long, device=device)
        self.first = torch.full((count,), torch.nan, device=device)
        self.best = torch.full((count,), torch.inf, device=device)
        self.waited = torch.zeros(count, dtype=torch.long, device=device)

    def judge(self, loss: Tensor) -> None:
        """Look at the losses (B,) of the masks as they are; those that still run afterwards are updated once."""
        finite = loss.isfinite()
        self.first = torch.where(self.first.isnan() & finite, loss, self.first)
        fallen = loss < self.best - (self.tolerance or 0.0)
        self.waited = torch.where(fallen, 0, self.waited + 1)
        self.best = torch.where(finite, torch.minimum(self.best, loss), self.best)
        diverged = loss > self.first + self.first.abs().clamp(min=1)
        converged = (self.waited >= self.patience) & (self.tolerance is not None)
        reason = torch.where(diverged, DIVERGED, torch.where(converged, CONVERGED, 0))
        reason = torch.where(finite, reason, NON_FINITE)
        self.reason = torch.where(self.running, reason, self.reason)
        self.running = self.running & (reason == 0)
        self.updates = self.updates + self.running

    def hold_values(self, values: dict[str, Tensor], last: dict[str, Tensor], made: int | Tensor) -> dict[str, Tensor]:
        """The values of a step, those of pairs that stopped before it, or now without a finite loss, as they were last.

        Args:
            values: (B,) each, by name, "loss/total" among them; already judged.
            last: The values of the step before, likewise.
            made: Steps made before this one.
        """
        stale = ~self.running & ~(values["loss/total"].isfinite() & (self.updates == made))
        return {name: torch.where(stale, last[name], value) for name, value in values.items()}

    def forget(self, rows: Tensor) -> None:
        """Of the pairs that (B,) bool says, earlier losses are not to be compared with those that come."""
        self.first = torch.where(rows, torch.nan, self.first)
        self.best = torch.where(rows, torch.inf, self.best)
        self.waited = torch.where(rows, 0, self.waited)

    def keep(self, rows: Tensor) -> None:
        """Forget all pairs but those of the given indices."""
        for name in self.FIELDS:
            setattr(self, name, getattr(self, name)[rows])

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        return {name: getattr(self, name) for name in self.FIELDS}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name in self.FIELDS:
            setattr(self, name, state[name].to(self.running.device))
