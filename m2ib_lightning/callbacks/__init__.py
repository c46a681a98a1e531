"""Lightning callbacks: one file each."""

from m2ib_lightning.callbacks.gathered import GatheredLogger
from m2ib_lightning.callbacks.loggers import close_loggers, quiet_loggers, settle_loggers
from m2ib_lightning.callbacks.mask_logger import MaskLogger
from m2ib_lightning.callbacks.output_summary import OutputSummary
from m2ib_lightning.callbacks.predictions import PredictionWriter
from m2ib_lightning.callbacks.progress import PairProgress
from m2ib_lightning.callbacks.results import ResultWriter
from m2ib_lightning.callbacks.score_writer import ScoreWriter

__all__ = [
    "GatheredLogger",
    "MaskLogger",
    "OutputSummary",
    "PairProgress",
    "PredictionWriter",
    "ResultWriter",
    "ScoreWriter",
    "close_loggers",
    "quiet_loggers",
    "settle_loggers",
]
