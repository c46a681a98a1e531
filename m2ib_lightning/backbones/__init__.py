"""Frozen CLIP-like models, cut in two at a layer. One file per family behind one contract, `base.py`."""

from m2ib_lightning.backbones.base import Backbone, Tower
from m2ib_lightning.backbones.load import load_backbone

__all__ = ["Backbone", "Tower", "load_backbone"]
