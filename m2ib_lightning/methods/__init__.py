"""Attribution methods: one file each behind one contract, `base.py`."""

from m2ib_lightning.methods.base import AttributionMethod
from m2ib_lightning.methods.calibration import measure_priors
from m2ib_lightning.methods.m2ib import M2IB, RELEASED

__all__ = ["M2IB", "RELEASED", "AttributionMethod", "measure_priors"]
