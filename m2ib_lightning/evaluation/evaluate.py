"""One method over data: the value of every metric for every pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from m2ib_lightning import metrics as m
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation.evidence import BatchEvidence
from m2ib_lightning.evaluation.protocol import Protocol
from m2ib_lightning.evaluation.sanity import Sanity
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.types import MODALITIES, Pair, PairBatch


def standard_metrics() -> list[PairMetric]:
    """The metrics that cost no more than a few dozen forward passes a pair."""
    kinds = (m.ConfidenceDrop, m.ConfidenceIncrease, m.InsertionAUC, m.DeletionAUC)
    both: list[PairMetric] = [kind(modality) for modality in MODALITIES for kind in kinds]
    places = [m.PointingGame(), m.RelevanceMassAccuracy(), m.RelevanceRankAccuracy(), m.MeanIoU()]
    return [*places, m.ContrastToNoiseRatio(), m.TokenAUROC(), m.TokenMassAccuracy(), *both]


def sanity_metrics() -> list[PairMetric]:
    """The metrics that explain every pair again, under a change: five times more work."""
    similarity = [m.RandomisationSimilarity(modality) for modality in MODALITIES]
    return [*similarity, m.NonsensePrompt(), m.MaxSensitivity(), *(m.Infidelity(modality) for modality in MODALITIES)]


class Evaluator:
    """Scores what a method says of pairs.

    Args:
        method: The method; sanity metrics ask it again about changed models and inputs.
        metrics: What is measured; the standard ones by default. They hold the values of all pairs scored here.
        protocol: How inputs are masked.
    """

    def __init__(
        self,
        method: AttributionMethod,
        metrics: Sequence[PairMetric] | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        self.method, self.protocol = method, protocol or Protocol()
        self.metrics = list(standard_metrics() if metrics is None else metrics)
        self.sanity = Sanity(method)

    def explain(self, pairs: Sequence[Pair]) -> tuple[list[Attribution], list[dict[str, Any]]]:
        """Explain a batch of pairs and score it.

        Returns:
            The attributions, and the rows of `score`.
        """
        batch = self.method.prepare().preprocess_pairs(pairs)
        attributions = self.method.explain(batch)
        return attributions, self.score(batch, attributions)

    def score(self, batch: PairBatch, attributions: Sequence[Attribution]) -> list[dict[str, Any]]:
        """Score what the method said of a batch of pairs; the values go into the attributions' `metrics` as well.

        Args:
            batch: The pairs as the model reads them.
            attributions: One for each pair.

        Returns:
            A row per pair: "id", "protocol", each metric's value by its name (nan where it has none), and what a metric
            keeps beside its value, as a list: "image/insertion", for example.
        """
        evidence = BatchEvidence(self.sanity, batch, attributions, self.protocol)
        rows = []
        for seen in evidence.pairs():
            values = {metric.name: metric.observe(seen) for metric in self.metrics}
            seen.attribution.metrics |= values
            kept = {name: of for metric in self.metrics for name, of in metric.kept(seen).items()}
            rows.append({"id": seen.attribution.id, "protocol": self.protocol.name, **values, **kept})
        return rows
