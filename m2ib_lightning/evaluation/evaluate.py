"""One method over data: maps, values of every metric for every pair, and the time it took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch

from m2ib_lightning import metrics as m
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation.evidence import BatchEvidence, Protocol
from m2ib_lightning.evaluation.sanity import Sanity
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.types import Modality, Pair, PairBatch

Precision = Literal["32-true", "bf16-mixed"]
CURVES = tuple((modality, kind) for modality in ("image", "text") for kind in ("insertion", "deletion"))


def standard_metrics() -> list[PairMetric]:
    """The metrics that cost no more than a few forward passes a pair."""
    both: list[PairMetric] = [
        kind(modality)
        for modality in ("image", "text")
        for kind in (m.ConfidenceDrop, m.ConfidenceIncrease, m.InsertionAUC, m.DeletionAUC)
    ]
    places = [m.PointingGame(), m.RelevanceMassAccuracy(), m.RelevanceRankAccuracy(), m.MeanIoU()]
    return [*places, m.ContrastToNoiseRatio(), m.TokenAUROC(), m.TokenMassAccuracy(), *both]


def sanity_metrics() -> list[PairMetric]:
    """The metrics that explain every pair again: five times more work."""
    modalities: tuple[Modality, ...] = ("image", "text")
    similarity = [m.RandomisationSimilarity(modality) for modality in modalities]
    return [*similarity, m.NonsensePrompt(), m.MaxSensitivity(), *(m.Infidelity(modality) for modality in modalities)]


class Evaluator:
    """Scores what a method says.

    Args:
        method: Explains.
        metrics: What is measured; the standard ones by default.
        protocol: How inputs are masked.
        precision: Of the explaining; the scoring is in float32 always.
    """

    def __init__(
        self,
        method: AttributionMethod,
        metrics: Sequence[PairMetric] | None = None,
        protocol: Protocol | None = None,
        precision: Precision = "32-true",
    ) -> None:
        self.precision = precision
        self.method, self.protocol = method, (protocol or Protocol()).checked()
        self.metrics = list(standard_metrics() if metrics is None else metrics)
        self.sanity = Sanity(method)

    def explain(self, pairs: Sequence[Pair]) -> tuple[list[Attribution], list[dict[str, Any]]]:
        """Explain a batch of pairs and score it; `seconds` is the explanation's time per pair."""
        backbone = self.method.prepare()
        start = time.perf_counter()
        batch = backbone.preprocess_pairs(pairs)
        with torch.autocast(backbone.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            attributions = self.method.attribute(batch)
        seconds = (time.perf_counter() - start) / len(pairs)
        rows = self._score(pairs, batch, attributions)
        return attributions, [row | {"seconds": seconds} for row in rows]

    def score(self, pairs: Sequence[Pair], attributions: Sequence[Attribution]) -> list[dict[str, Any]]:
        """A row per pair: its id, the protocol's name, each metric's value (nan for none), and the curves.

        The values go into the attributions' `metrics` as well.
        """
        return self._score(pairs, self.method.prepare().preprocess_pairs(pairs), attributions)

    def _score(
        self, pairs: Sequence[Pair], batch: PairBatch, attributions: Sequence[Attribution]
    ) -> list[dict[str, Any]]:
        evidence = BatchEvidence(self.sanity, batch, attributions, self.protocol)
        rows = []
        for pair, seen in zip(pairs, evidence.pairs(), strict=True):
            row: dict[str, Any] = {"id": pair.id, "protocol": self.protocol.name}
            values = {metric.name: metric.observe(seen) for metric in self.metrics}
            seen.attribution.metrics |= values
            row |= values
            measured = {f"{metric.modality}/{getattr(metric, 'kind', '')}" for metric in self.metrics}
            for modality, kind in CURVES:
                if f"{modality}/{kind}" in measured:
                    curve = seen.curve("image" if modality == "image" else "text", kind)
                    row[f"curve/{modality}/{kind}"] = None if curve is None else curve.tolist()
            for metric in self.metrics:
                if getattr(metric, "by_layer", False):
                    row[f"layers/{metric.modality}/randomised"] = seen.layers(metric.modality)
            rows.append(row)
        return rows
