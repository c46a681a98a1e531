"""What a comparison of several methods over the same pairs found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from m2ib_lightning.evaluation.protocol import Protocol
from m2ib_lightning.metrics import PairMetric

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        frame: A row per method and pair: method, id, protocol, a column per metric, seconds, and curves as lists.
        metrics: What was measured, for directions and units.
        folder: Where it is written, with each method's attributions in `<method>/attributions`.
        protocol: How inputs were masked; its `caption` belongs under every table of it.
        controls: The labels of methods that know nothing of a pair. A metric that one of them wins ranks nothing.
        left_out: Why methods that were asked for cannot explain the model, by their labels.
    """

    frame: pd.DataFrame
    metrics: Sequence[PairMetric]
    folder: Path
    protocol: Protocol = field(default_factory=Protocol)
    controls: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """The labels of all methods, in the order they were given."""
        return list(dict.fromkeys(self.frame["method"]))

    def means(self) -> dict[str, float]:
        """Each metric's mean over the pairs that have a value, by its name; a control's behind the control's label."""
        found = {
            f"{method}/{metric.name}" if method in self.controls else metric.name: self.values(
                method, metric.name
            ).mean()
            for method in self.methods
            for metric in self.metrics
        }
        return {name: float(mean) for name, mean in found.items() if not math.isnan(mean)}

    def values(self, method: str, column: str) -> pd.Series:
        """A column's value for each pair that a method explained, by the pair's id."""
        rows = self.frame[self.frame["method"] == method]
        return rows.set_index("id")[column]
