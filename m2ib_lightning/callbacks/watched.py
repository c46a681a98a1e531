"""The masks of a fit as they are now, read off for a person to see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from m2ib_lightning.methods.base import as_attributions
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.report.mask_state import MaskState
from m2ib_lightning.types import Modality

BINS = 32


class Watched(NamedTuple):
    """A pair of a fit: its batch, and its place there."""

    fit: MaskFit
    row: int

    @property
    def id(self) -> str:
        """The name of the pair in its data."""
        return self.fit.batch.pairs[self.row].id


class Histogram(NamedTuple):
    """How the mask values of one pair and modality are spread over [0, 1].

    Attributes:
        counts: How many values lie in each of `BINS` buckets of equal width.
        total: The sum of all values.
        squares: The sum of their squares.
    """

    counts: list[int]
    total: float
    squares: float


def read_states(watched: Sequence[Watched], step: int) -> list[MaskState]:
    """The masks of pairs after so many steps of their fit."""
    states = {fit: _states(fit, step) for fit in dict.fromkeys(w.fit for w in watched)}
    return [states[fit][row] for fit, row in watched]


def mask_histograms(watched: Watched) -> dict[Modality, Histogram]:
    """The mask values of a pair's masked tokens, all channels."""
    found: dict[Modality, Histogram] = {}
    for modality in watched.fit.towers:
        bottleneck = watched.fit.bottleneck(modality)
        masks = bottleneck.alpha[watched.row].detach().float().sigmoid()
        values = masks[bottleneck.open[watched.row]].ravel().cpu().numpy()
        counts = np.bincount((values * BINS).astype(int).clip(max=BINS - 1), minlength=BINS)
        found[modality] = Histogram(counts.tolist(), float(values.sum()), float(values @ values))
    return found


def _states(fit: MaskFit, step: int) -> list[MaskState]:
    """Of every pair of a fit."""
    losses = fit.history[-1]["loss/total"].tolist() if fit.history and step else [math.nan] * fit.pairs
    read = partial(
        as_attributions, fit.batch, special=fit.hidden["text"].special, score=fit.score, unit="nats", settings={}
    )
    capacity = read(image=fit.maps("image"), text=fit.maps("text"))
    mask = read(image=fit.mean_masks("image"), text=fit.mean_masks("text"))
    return [MaskState(step, *each) for each in zip(losses, capacity, mask, strict=True)]
