"""Explains why a CLIP-like model finds an image and a text similar, by a multi-modal information bottleneck."""

from m2ib_lightning.api import explain
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.calibration import Calibration, calibrate
from m2ib_lightning.comparison import compare
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.losses import LossTerm
from m2ib_lightning.methods import M2IB, RELEASED, AttributionMethod
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.version import __version__

__all__ = [
    "M2IB",
    "RELEASED",
    "Attribution",
    "AttributionMethod",
    "AttributionStore",
    "Backbone",
    "Calibration",
    "LossTerm",
    "PairDataModule",
    "__version__",
    "calibrate",
    "compare",
    "explain",
    "load_backbone",
]
