"""What scores a method on data that carries truth: the evidence for each metric, sanity checks, intervals."""

from m2ib_lightning.evaluation.bootstrap import Interval, interval, paired_interval
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.evaluation.evaluate import Evaluator, sanity_metrics, standard_metrics
from m2ib_lightning.evaluation.protocol import Protocol
from m2ib_lightning.evaluation.truth import true_tokens

__all__ = [
    "Comparison",
    "Evaluator",
    "Interval",
    "Protocol",
    "interval",
    "paired_interval",
    "sanity_metrics",
    "standard_metrics",
    "true_tokens",
]
