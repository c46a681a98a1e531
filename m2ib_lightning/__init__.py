"""Explains why a CLIP-like model finds an image and a text similar, by a multi-modal information bottleneck."""

from m2ib_lightning.api import explain
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.comparison import compare
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.evaluation.suggest import Suggestion, suggest_settings
from m2ib_lightning.losses import LossTerm
from m2ib_lightning.methods import M2IB, RELEASED, AttributionMethod, measure_priors
from m2ib_lightning.prior import Prior, load_priors, save_priors
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.version import __version__

__all__ = [
    "M2IB",
    "RELEASED",
    "Attribution",
    "AttributionMethod",
    "AttributionStore",
    "Backbone",
    "LossTerm",
    "PairDataModule",
    "Prior",
    "Suggestion",
    "__version__",
    "compare",
    "explain",
    "load_backbone",
    "load_priors",
    "measure_priors",
    "save_priors",
    "suggest_settings",
]
