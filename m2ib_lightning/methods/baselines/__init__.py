"""Other ways to explain a pair, one file each: a class with `relevance`, over what `base.py` brings."""

from m2ib_lightning.methods.baselines.attention_rollout import AttentionRollout
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.baselines.centre_prior import CentrePrior
from m2ib_lightning.methods.baselines.chefer import Chefer
from m2ib_lightning.methods.baselines.exclip import ExCLIP
from m2ib_lightning.methods.baselines.fixlip import FIxLIP
from m2ib_lightning.methods.baselines.grad_cam import GradCAM
from m2ib_lightning.methods.baselines.grad_eclip import GradECLIP
from m2ib_lightning.methods.baselines.integrated_gradients import IntegratedGradients
from m2ib_lightning.methods.baselines.kernel_shap import KernelSHAP
from m2ib_lightning.methods.baselines.le_grad import LeGrad
from m2ib_lightning.methods.baselines.nib import NIB
from m2ib_lightning.methods.baselines.occlusion import Occlusion
from m2ib_lightning.methods.baselines.random_map import RandomMap
from m2ib_lightning.methods.baselines.rise import RISE
from m2ib_lightning.methods.baselines.saliency import Saliency
from m2ib_lightning.methods.baselines.smooth_grad import SmoothGrad
from m2ib_lightning.methods.baselines.uniform_map import UniformMap

__all__ = [
    "NIB",
    "RISE",
    "AttentionRollout",
    "Baseline",
    "CentrePrior",
    "Chefer",
    "ExCLIP",
    "FIxLIP",
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
]
