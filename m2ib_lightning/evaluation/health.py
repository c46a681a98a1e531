"""What was measured of a model, and what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.metrics import spearman
from m2ib_lightning.types import Modality


class Finding(NamedTuple):
    """One thing that was measured.

    Attributes:
        name: What it was that was measured.
        value: What came out, in words.
        good: Whether it speaks for the model, None where it is only said.
        says: What it means, and the remedy where it is not good.
    """

    name: str
    value: str
    good: bool | None
    says: str


@dataclass
class Health:
    """What was measured of a model.

    Attributes:
        about: The model and the machine, by name.
        errors: How far each tower is from the library's, see `exactness`.
        results: The attributions of the pairs.
        halves: Of each modality, the correlation of the maps of two halves of the noise, a value a pair.
        nats: (pairs, groups), the share of the map's nats that each of `check.ranked_groups` has.
        falls: (pairs, groups), the share of the similarity that is lost when the group is hidden.
        words: Of each pair, the correlation of the words' nats and how far the similarity falls without each.
        outlying: Of each picture, the share of its patches with outlying hidden states.
        marked: Of each picture, the share of its nats on them.
        seconds: How long a pair takes, both of its maps together.
        gigabytes: The most memory that was used, of the GPU if there is one, else of this process.
    """

    about: dict[str, Any]
    errors: dict[Modality, float | None]
    results: list[Attribution] = field(default_factory=list)
    halves: dict[Modality, list[float]] = field(default_factory=lambda: {"image": [], "text": []})
    nats: list[NDArray[np.float32]] = field(default_factory=list)
    falls: list[NDArray[np.float32]] = field(default_factory=list)
    words: list[float] = field(default_factory=list)
    outlying: list[float] = field(default_factory=list)
    marked: list[float] = field(default_factory=list)
    seconds: float = 0.0
    gigabytes: float = 0.0

    @property
    def verdicts(self) -> Counter[str]:
        """How many pairs have which verdict."""
        return Counter(a.verdict for a in self.results)

    def findings(self) -> list[Finding]:
        """Everything that was measured, each with whether it is good."""
        known = [error for error in self.errors.values() if error is not None]
        told = ", ".join(f"{m} {'not compared' if e is None else f'{e:.0e}'}" for m, e in self.errors.items())
        halves = {m: float(np.nanmean(values)) for m, values in self.halves.items()}
        ranks, words = _order(self.nats, self.falls), float(np.nanmean(self.words))
        speed = f"{self.seconds:.2f} s a pair, {self.gigabytes:.1f} GB at most"
        marked, outlying = float(np.mean(self.marked)), float(np.mean(self.outlying))
        return [
            Finding(
                "Cut towers against the library",
                told,
                max(known) < 1e-4 if known else None,
                "The largest error of an embedding at any layer, over its largest value. From 1e-4 on maps are of "
                "another model: please report it.",
            ),
            Finding(
                "Verdicts",
                ", ".join(f"{verdict.replace('_', ' ')} {count}" for verdict, count in self.verdicts.most_common()),
                self.verdicts["ok"] >= 0.8 * len(self.results),
                "Four of five pairs should be ok. Otherwise the model does not know them, or the layers do not suit "
                "it; `m2ib calibrate` finds others.",
            ),
            Finding(
                "Nats and what hiding costs",
                f"rank correlation {ranks:.2f} over patches, {words:.2f} over words",
                ranks >= 0.5,
                "Hiding patches with more nats should cost more similarity. Below 0.5 the map is not what the "
                "model uses.",
            ),
            Finding(
                "Two halves of the noise",
                ", ".join(f"{m} {r:.2f}" for m, r in halves.items()),
                min(halves.values()) >= 0.9,
                "Correlation of the maps with half of the noise samples each. Below 0.9: more `noise_samples`.",
            ),
            Finding(
                "Artefact patches",
                f"{100 * outlying:.1f} % of patches with {100 * marked:.0f} % of the nats",
                marked <= 0.2,
                "Patches with long hidden states, which are a model's notes to itself. Beyond a fifth of the nats: an "
                "earlier layer, or `find_artefacts(...)[0].fill(map)`.",
            ),
            Finding("Speed and memory", speed, None, "Both maps."),
        ]

    @property
    def conclusion(self) -> str:
        """What follows from the findings, in one sentence."""
        bad = [finding.name.lower() for finding in self.findings() if finding.good is False]
        if not bad:
            return "Nothing that was measured speaks against explaining this model with M2IB."
        return f"Look before you trust a map of this model: {', '.join(bad)}."

    def text(self) -> str:
        """The same in short, to paste."""
        head = [f"{name}: {value}" for name, value in self.about.items()]
        marks = {True: "ok ", False: "LOOK", None: "    "}
        lines = [f"{marks[finding.good]:5}{finding.name}: {finding.value}" for finding in self.findings()]
        return "\n".join([*head, *lines, self.conclusion])


def stacked(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Rows on one another; those of smaller pictures, which have fewer groups, filled up with nan."""
    whole = np.full((len(rows), max(map(len, rows))), np.nan, dtype=np.float32)
    for line, row in zip(whole, rows, strict=True):
        line[: len(row)] = row
    return whole


def _order(nats: Sequence[NDArray[np.float32]], falls: Sequence[NDArray[np.float32]]) -> float:
    """Rank correlation of the groups' mean nats and mean falls, both for a patch."""
    sizes = np.maximum(1, 2.0 ** (np.arange(max(map(len, nats))) - 1))
    means = (torch.from_numpy(np.nanmean(stacked(values), 0) / sizes) for values in (nats, falls))
    return float(spearman(*means))
