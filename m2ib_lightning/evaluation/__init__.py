"""Methods against metrics on data that carries truth: evidence for each metric, comparisons that resume, intervals."""

from m2ib_lightning.evaluation.bootstrap import Interval, interval, paired_interval
from m2ib_lightning.evaluation.comparison import Comparison, compare
from m2ib_lightning.evaluation.evaluate import Evaluator, sanity_metrics, standard_metrics
from m2ib_lightning.evaluation.evidence import Protocol
from m2ib_lightning.evaluation.truth import true_tokens

__all__ = [
    "Comparison",
    "Evaluator",
    "Interval",
    "Protocol",
    "compare",
    "interval",
    "paired_interval",
    "sanity_metrics",
    "standard_metrics",
    "true_tokens",
]
