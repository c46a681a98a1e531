"""The masks of a fit as they are now, read off for a person to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.bottleneck import InformationBottleneck
from m2ib_lightning.methods.base import MODALITIES
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


@torch.no_grad()
def read_states(watched: Sequence[Watched], step: int) -> list[MaskState]:
    """The masks of pairs after so many steps of their fit."""
    maps = {fit: _token_values(fit) for fit in dict.fromkeys(w.fit for w in watched)}
    return [_state(w, step, maps[w.fit]) for w in watched]


def mask_histograms(watched: Watched) -> dict[Modality, Histogram]:
    """The mask values of a pair's masked tokens, all channels."""
    found: dict[Modality, Histogram] = {}
    for modality in MODALITIES:
        if modality not in watched.fit.bottlenecks:
            continue
        bottleneck = _bottleneck(watched.fit, modality)
        alpha = _numpy(bottleneck.alpha[watched.row])[_numpy(bottleneck.open[watched.row])].ravel()
        values = 1 / (1 + np.exp(-alpha.clip(-60, 60)))
        counts = np.bincount((values * BINS).astype(int).clip(max=BINS - 1), minlength=BINS)
        found[modality] = Histogram(counts.tolist(), float(values.sum()), float(values @ values))
    return found


def _token_values(fit: MaskFit) -> dict[str, list[np.ndarray]]:
    """Per pair: "image/capacity" and "image/mask" (gh, gw), "text/capacity" and "text/mask" (L,)."""
    found: dict[str, list[np.ndarray]] = {}
    for modality, capacity in (("image", fit.image_maps()), ("text", fit.text_maps())):
        if capacity is None:
            continue
        bottleneck = _bottleneck(fit, modality)
        mean = bottleneck.lambda_.mean(-1) * bottleneck.open
        keep = ~fit.hidden["image"].special if modality == "image" else torch.ones_like(bottleneck.open)
        masks = [mean[i][keep[i]].reshape(c.shape) for i, c in enumerate(capacity)]
        found[f"{modality}/capacity"] = [_numpy(values) for values in capacity]
        found[f"{modality}/mask"] = [_numpy(values) for values in masks]
    return found


def _state(watched: Watched, step: int, maps: dict[str, list[np.ndarray]]) -> MaskState:
    fit, i = watched
    batch, pair = fit.batch, fit.batch.pairs[i]
    length = len(batch.tokens[i])
    plain = Attribution(
        id=pair.id,
        text=pair.text,
        image_map=None,
        text_map=None,
        tokens=list(batch.tokens[i]),
        special=_numpy(fit.hidden["text"].special[i, :length]),
        spans=list(batch.spans[i]),
        score=float(fit.score[i]),
        view=batch.views[i],
        truncated=batch.truncated[i],
    )
    views = []
    for what in ("capacity", "mask"):
        image, text = maps.get(f"image/{what}"), maps.get(f"text/{what}")
        text_map = None if text is None else text[i][:length]
        views.append(replace(plain, image_map=None if image is None else image[i], text_map=text_map))
    loss = float(fit.history[-1]["loss/total"][i]) if fit.history and step else float("nan")
    return MaskState(step, loss, *views)


def _bottleneck(fit: MaskFit, modality: str) -> InformationBottleneck:
    bottleneck = fit.bottlenecks[modality]
    assert isinstance(bottleneck, InformationBottleneck)
    return bottleneck


def _numpy(values: Tensor) -> np.ndarray:
    array = values.detach().cpu()
    return (array.float() if array.is_floating_point() else array).numpy()
