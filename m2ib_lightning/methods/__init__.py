"""Attribution methods: one file each behind one contract, `base.py`; baselines share `baseline.py`."""

from m2ib_lightning.methods.attention_rollout import AttentionRollout
from m2ib_lightning.methods.base import AttributionMethod
from m2ib_lightning.methods.calibration import measure_priors
from m2ib_lightning.methods.centre_prior import CentrePrior
from m2ib_lightning.methods.chefer import Chefer
from m2ib_lightning.methods.grad_cam import GradCAM
from m2ib_lightning.methods.grad_eclip import GradECLIP
from m2ib_lightning.methods.integrated_gradients import IntegratedGradients
from m2ib_lightning.methods.kernel_shap import KernelSHAP
from m2ib_lightning.methods.le_grad import LeGrad
from m2ib_lightning.methods.m2ib import M2IB, RELEASED
from m2ib_lightning.methods.nib import NIB
from m2ib_lightning.methods.occlusion import Occlusion
from m2ib_lightning.methods.random_map import RandomMap
from m2ib_lightning.methods.rise import RISE
from m2ib_lightning.methods.saliency import Saliency
from m2ib_lightning.methods.smooth_grad import SmoothGrad

__all__ = [
    "M2IB",
    "NIB",
    "RELEASED",
    "RISE",
    "AttentionRollout",
    "AttributionMethod",
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
    "measure_priors",
]
