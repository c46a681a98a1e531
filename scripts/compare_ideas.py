#!/usr/bin/env python
"""Try ideas for M2IB's image map on held-out scenes: three objects, one named.

    python scripts/compare_ideas.py --scenes 60 --scene_seed 40000

Each row is a map made from one or several fits: its metrics, and of each the mean difference to the default's with its
95 % interval over the same scenes.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from on_scenes import drawn, keep, options_of, pairs_of
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning import M2IB, Attribution, load_backbone
from m2ib_lightning.evaluation import Evaluator, interval
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.metrics import (
    ConfidenceDrop,
    DeletionAUC,
    InsertionAUC,
    PointingGame,
    RelevanceMassAccuracy,
    RelevanceRankAccuracy,
)
from m2ib_lightning.types import Pair

NEUTRAL = "a picture"
METRICS = [
    PointingGame(), RelevanceMassAccuracy(), RelevanceRankAccuracy(), ConfidenceDrop("image"), InsertionAUC("image"),
    DeletionAUC("image"),
]  # fmt: skip
Maps = list[np.ndarray]


def share(maps: Maps) -> Maps:
    return [m / max(m.sum(), 1e-9) for m in maps]


def less(maps: Maps, others: Maps) -> Maps:
    return [np.maximum(a - b, 0) for a, b in zip(maps, others, strict=True)]


def total(*parts: Maps) -> Maps:
    return [np.sum(maps, axis=0) for maps in zip(*parts, strict=True)]


class Explainer:
    """M2IB's image maps of some pairs in several settings, each fitted once."""

    def __init__(self, methods: dict[str, M2IB], pairs: Sequence[Pair]) -> None:
        self.methods, self.pairs = methods, pairs
        self.known: dict[tuple[str, str | None], Maps] = {}

    def __call__(self, setting: str = "default", text: str | None = None) -> Maps:
        """Maps in a setting, for another text if one is given."""
        if (setting, text) not in self.known:
            method = self.methods[setting]
            pairs = [p if text is None else p._replace(text=text) for p in self.pairs]
            found = method.attribute(method.prepare().preprocess_pairs(pairs))
            self.known[setting, text] = [a.image_map for a in found if a.image_map is not None]
        return self.known[setting, text]

    @cached_property
    def fit(self) -> MaskFit:
        """The default's masks as they are at the end."""
        return self.fitted("default")[0]

    def fitted(self, *settings: str, start: float | None = None) -> list[MaskFit]:
        """Fits at their end that share one mask, which follows the sum of their losses.

        Args:
            settings: One fit of each.
            start: Of the mask's logits; the package's own by default.
        """
        methods = [self.methods[setting] for setting in settings]
        fits = [method.new_fit(method.prepare().preprocess_pairs(self.pairs)) for method in methods]
        mask = fits[0].bottleneck("image").alpha
        if start is not None:
            mask.data.fill_(start)
        for fit in fits[1:]:
            fit.bottleneck("image").alpha = mask
        optimizer = methods[0].new_optimizer([mask])
        for _ in range(methods[0].steps):
            for fit in fits:
                fit.accumulate()
            optimizer.step()
            optimizer.zero_grad()
            for fit in fits:
                fit.hold_stopped()
        return fits

    def nats(self, *settings: str, start: float | None = None) -> Maps:
        """Maps of what such a mask lets through, the mean over the fits."""
        fits = self.fitted(*settings, start=start)
        return self.maps(torch.stack([fit.bottleneck("image").capacity().mean(-1) for fit in fits]).mean(0))

    @property
    def capacity(self) -> Tensor:
        """Nats of each token and channel, (B, L, D)."""
        return self.fit.bottleneck("image").capacity().detach()

    def maps(self, values: Tensor) -> Maps:
        """Values of tokens, (B, L), as maps."""
        fit = self.fit
        grids, content = fit.grids["image"], ~fit.hidden["image"].special
        return [v[keep].reshape(grid).numpy() for v, keep, grid in zip(values.detach(), content, grids, strict=True)]

    def weighted(self) -> Maps:
        """Capacity times the size of the cosine's gradient in each channel, which says what the model reads there."""
        method, fit = self.methods["default"], self.fit
        hidden, layer = fit.hidden["image"], method.towers["image"].layer
        states = hidden.states.detach().requires_grad_()
        embedding = method.prepare().image.suffix(states[None], hidden, layer)[0]
        F.cosine_similarity(embedding, fit.clean["text"]).sum().backward()
        weight = states.grad.abs().mean(1, keepdim=True)
        return self.maps((self.capacity * weight / weight.mean(-1, keepdim=True)).sum(-1))

    def kept(self) -> Maps:
        """The share of a channel's variance that is signal where it lets c nats through, 1 - exp(-2 c); the mean."""
        return self.maps(-torch.expm1(-2 * self.capacity).mean(-1))

    def saturated(self) -> Maps:
        """The same of the patch's mean nats."""
        return self.maps(-torch.expm1(-2 * self.capacity.mean(-1)))

    def open(self) -> Maps:
        """The mask itself, mean over channels."""
        return self.maps(self.fit.bottleneck("image").lambda_.mean(-1))


IDEAS: dict[str, Callable[[Explainer], Maps]] = {
    "default": lambda made: made(),
    "less the map of a neutral caption": lambda made: less(made(), made(text=NEUTRAL)),
    "the same of shares": lambda made: less(share(made()), share(made(text=NEUTRAL))),
    "mean of blocks 1, 2, 3": lambda made: total(*(share(made(s)) for s in ("block 1", "default", "block 3"))),
    "mean of blocks 0, 1, 2": lambda made: total(*(share(made(s)) for s in ("block 0", "block 1", "default"))),
    "mean of betas 0.3, 1, 3": lambda made: total(made("beta 0.3"), made("beta 1"), made()),
    "beta 1": lambda made: made("beta 1"),
    "one mask in blocks 1, 2 and 3": lambda made: made.nats("block 1", "default", "block 3"),
    "one mask in blocks 0, 1 and 2": lambda made: made.nats("block 0", "block 1", "default"),
    "masks closed at first": lambda made: made.nats("default", start=-5.0),
    "masks half open at first": lambda made: made.nats("default", start=0.0),
    "square root of nats": lambda made: [np.sqrt(m) for m in made()],
    "channels weighted by gradient": lambda made: made.weighted(),
    "share of the variance kept, by channel": lambda made: made.kept(),
    "share of the variance kept, by patch": lambda made: made.saturated(),
    "mean of the mask": lambda made: made.open(),
}


def evaluate(options: argparse.Namespace, batch: int = 20) -> dict[str, pd.DataFrame]:
    """Of each idea a row for each scene."""
    backbone, scenes = load_backbone(options.backbone), drawn(options)
    settings = {"default": {}, **{f"block {n}": {"image_layer": n} for n in (0, 1, 3)}}
    settings |= {f"beta {b:g}": {"image_beta": b} for b in (0.3, 1.0)}
    methods = {name: M2IB(backbone, modalities=["image"], **changed) for name, changed in settings.items()}
    evaluator, rows = Evaluator(methods["default"], METRICS), defaultdict(list)
    for start in track(range(0, len(scenes), batch), "Scenes"):
        pairs = pairs_of(scenes[start : start + batch])
        inputs = backbone.preprocess_pairs(pairs)
        attributions = methods["default"].attribute(inputs)
        explainer = Explainer(methods, pairs)
        for name, idea in IDEAS.items():
            rows[name] += evaluator.score(inputs, _with_maps(attributions, idea(explainer)))
    return {name: pd.DataFrame(found) for name, found in rows.items()}


def _with_maps(attributions: Sequence[Attribution], maps: Maps) -> list[Attribution]:
    return [replace(a, image_map=m.astype(np.float32)) for a, m in zip(attributions, maps, strict=True)]


def numbers(found: dict[str, pd.DataFrame]) -> list[dict[str, str | float]]:
    """A row for each idea: its means, and the difference to the default with its interval."""
    rows = []
    for name, frame in found.items():
        row: dict[str, str | float] = {"map": name}
        for metric in METRICS:
            mean, low, high, _ = interval(frame[metric.name] - found["default"][metric.name])
            row |= {metric.name: float(frame[metric.name].mean()), f"{metric.name} change": mean}
            row |= {f"{metric.name} low": low, f"{metric.name} high": high}
        rows.append(row)
    return rows


def main() -> None:
    """Try every idea on the same scenes and keep the table."""
    options = options_of(__doc__, scenes=60, scene_seed=40_000, output="outputs/ideas").parse_args()
    warnings.simplefilter("ignore")
    keep(numbers(evaluate(options)), options)


if __name__ == "__main__":
    main()
