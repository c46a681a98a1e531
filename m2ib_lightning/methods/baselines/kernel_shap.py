"""KernelSHAP: Shapley values of patches and tokens (Lundberg and Lee, NeurIPS 2017), for a whole batch at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality

RIDGE = 1e-6
"""Keeps the regression solvable when there are fewer coalitions than players."""


class KernelSHAP(Baseline):
    """Fits cos(x masked to a coalition) by a sum over its members, weighed by Shapley's kernel.

    Players are patches or content tokens; a player that is left out is filled with 0. Coalitions are drawn in pairs
    with their complements; where all 2^n - 2 of them are no more than `samples`, all are taken and the values are
    exact. The values of a pair sum to cos(x) - cos(nothing).

    Captum's `KernelShap` does the same one pair at a time and with its own random draws.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        samples: How many coalitions are drawn, at least 2.
        seed: The coalitions follow from it; another one gives others.

    Raises:
        ValueError: `samples` is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        samples: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("samples", samples, 2)
        self.samples, self.seed = samples, seed

    def relevance(self, objective: Objective) -> Tensor:
        """Shapley values, (b, gh, gw) or (b, l); pairs of one size share coalitions and one regression."""
        content = objective.content
        if objective.grid:
            players = math.prod(objective.grid)
            coalitions, weights = draw_coalitions(players, self.samples, self.seed)
            height, width = objective.grid
            masks = rearrange(with_ends(coalitions).to(content.device), "s (gh gw) -> s 1 gh gw", gh=height, gw=width)
            values = shapley(coalitions, weights, objective.masked(masks))
            return rearrange(values, "(gh gw) b -> b gh gw", gh=height, gw=width)
        values = torch.zeros(content.shape, device=content.device)
        counts = content.sum(1)
        drawn = {n: draw_coalitions(n, self.samples, self.seed) for n in counts.unique().tolist()}
        longest = max(len(coalitions) for coalitions, _ in drawn.values()) + 2
        masks = torch.ones(longest, *content.shape, device=content.device)
        for n, (coalitions, _) in drawn.items():
            rows, part = counts == n, with_ends(coalitions).to(content.device)
            own = content & rearrange(rows, "b -> b 1")
            masks[: len(part), own] = repeat(part, "s n -> s (b n)", b=int(rows.sum()))
        scores = objective.masked(masks)
        for n, (coalitions, weights) in drawn.items():
            rows = counts == n
            found = shapley(coalitions, weights, scores[: len(coalitions) + 2, rows])
            values[content & rearrange(rows, "b -> b 1")] = rearrange(found, "n b -> (b n)")
        return values


def with_ends(coalitions: Tensor) -> Tensor:
    """The coalitions after the empty one and the full one, (s + 2, n)."""
    return torch.cat([torch.zeros(1, coalitions.shape[1]), torch.ones(1, coalitions.shape[1]), coalitions])


def draw_coalitions(players: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """(s, n) of 0 and 1 and their weights (s,): all coalitions but the ends, or as many drawn by Shapley's kernel."""
    n = players
    if n < 2:
        return torch.zeros(0, n), torch.zeros(0)
    if 2**n - 2 <= samples:
        every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)))[1:-1]
        weights = [(n - 1) / (math.comb(n, s) * s * (n - s)) for s in every.sum(1).long().tolist()]
        return every, torch.tensor(weights)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.arange(1, n)
    chances = (n - 1) / (sizes * (n - sizes)).float()
    size = sizes[torch.multinomial(chances, samples // 2, replacement=True, generator=generator)]
    places = torch.rand(len(size), n, generator=generator).argsort(1).argsort(1)
    half = (places < rearrange(size, "s -> s 1")).float()
    return torch.cat([half, 1 - half]), torch.ones(2 * len(half))


def shapley(coalitions: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    """Weighted least squares under the condition that the values sum to v(all) - v(none).

    Args:
        coalitions: Z, which features each coalition has, (s, n).
        weights: w, what each coalition counts, (s,).
        scores: v, (s + 2, b): of nothing, of everything, then of the coalitions.

    Returns:
        phi, (n, b): with A = Z'wZ and b = Z'w(v - v(none)), A^-1 (b - 1 (1'A^-1 b - total) / 1'A^-1 1).
    """
    v = scores.double()
    total, n = v[1] - v[0], coalitions.shape[1]
    if n < 2:
        return repeat(total, "b -> n b", n=n).float()
    z = coalitions.double().to(v.device)
    zw = z.T * (weights / weights.sum()).double().to(v.device)
    a = zw @ z + RIDGE * torch.eye(n, dtype=z.dtype, device=z.device)
    ones = torch.ones(n, 1, dtype=z.dtype, device=z.device)
    solved = torch.linalg.solve(a, torch.cat([zw @ (v[2:] - v[0]), ones], 1))
    free, unit = solved[:, :-1], solved[:, -1:]
    return (free - unit * (free.sum(0) - total) / unit.sum()).float()
