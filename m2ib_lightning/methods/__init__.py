"""Attribution methods behind one contract, `base.py`: M2IB, and others to compare it with in `baselines/`."""

from m2ib_lightning.methods.base import AttributionMethod
from m2ib_lightning.methods.baselines import (
    NIB,
    RISE,
    AttentionRollout,
    Baseline,
    CentrePrior,
    Chefer,
    GradCAM,
    GradECLIP,
    IntegratedGradients,
    KernelSHAP,
    LeGrad,
    Occlusion,
    RandomMap,
    Saliency,
    SmoothGrad,
    UniformMap,
)
from m2ib_lightning.methods.calibration import measure_priors
from m2ib_lightning.methods.m2ib import M2IB, RELEASED

__all__ = [
    "M2IB",
    "NIB",
    "RELEASED",
    "RISE",
    "AttentionRollout",
    "AttributionMethod",
    "Baseline",
    "CentrePrior",
    "Chefer",
    "GradCAM",
    "GradECLIP",
    "IntegratedGradients",
    "KernelSHAP",
    "LeGrad",
    "Occlusion",
    "RandomMap",
    "Saliency",
    "SmoothGrad",
    "UniformMap",
    "measure_priors",
]
