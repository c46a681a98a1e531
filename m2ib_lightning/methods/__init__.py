"""Attribution methods behind one contract, `base.py`: M2IB, and others to compare it with in `baselines/`."""

from m2ib_lightning.methods import baselines
from m2ib_lightning.methods.base import AttributionMethod
from m2ib_lightning.methods.baselines import *  # noqa: F403
from m2ib_lightning.methods.m2ib import M2IB, RELEASED

__all__ = ["M2IB", "RELEASED", "AttributionMethod"]
__all__ += baselines.__all__
