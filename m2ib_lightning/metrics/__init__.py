"""Metrics: one file each, a pure function and a class that holds its values. None of them ever sees a model."""

from m2ib_lightning.metrics.base import Evidence, PairMetric
from m2ib_lightning.metrics.confidence import ConfidenceDrop, ConfidenceIncrease, confidence_drop, confidence_increase
from m2ib_lightning.metrics.contrast_to_noise import (
    ContrastToNoiseRatio,
    contrast_to_noise_ratio,
    signed_contrast_to_noise_ratio,
)
from m2ib_lightning.metrics.faithfulness import Infidelity, MaxSensitivity, infidelity, max_sensitivity
from m2ib_lightning.metrics.map_similarity import NonsensePrompt, RandomisationSimilarity, pearson, spearman
from m2ib_lightning.metrics.mean_iou import MeanIoU, mean_iou
from m2ib_lightning.metrics.perturbation_curve import DeletionAUC, InsertionAUC, area_under_curve
from m2ib_lightning.metrics.phrase_maps import (
    PhraseLeak,
    PhraseMass,
    PhrasePointing,
    PhraseRetrieval,
    RegionWords,
    phrase_leak,
    phrase_mass,
    phrase_pointing,
    phrase_retrieval,
    region_words,
)
from m2ib_lightning.metrics.pointing_game import PointingGame, pointing_game
from m2ib_lightning.metrics.relevance_mass import (
    RelevanceMassAccuracy,
    TokenMassAccuracy,
    relevance_mass_accuracy,
    token_mass_accuracy,
)
from m2ib_lightning.metrics.relevance_rank import RelevanceRankAccuracy, relevance_rank_accuracy
from m2ib_lightning.metrics.token_auroc import TokenAUROC, token_auroc

__all__ = [
    "ConfidenceDrop",
    "ConfidenceIncrease",
    "ContrastToNoiseRatio",
    "DeletionAUC",
    "Evidence",
    "Infidelity",
    "InsertionAUC",
    "MaxSensitivity",
    "MeanIoU",
    "NonsensePrompt",
    "PairMetric",
    "PhraseLeak",
    "PhraseMass",
    "PhrasePointing",
    "PhraseRetrieval",
    "PointingGame",
    "RandomisationSimilarity",
    "RegionWords",
    "RelevanceMassAccuracy",
    "RelevanceRankAccuracy",
    "TokenAUROC",
    "TokenMassAccuracy",
    "area_under_curve",
    "confidence_drop",
    "confidence_increase",
    "contrast_to_noise_ratio",
    "infidelity",
    "max_sensitivity",
    "mean_iou",
    "pearson",
    "phrase_leak",
    "phrase_mass",
    "phrase_pointing",
    "phrase_retrieval",
    "pointing_game",
    "region_words",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "signed_contrast_to_noise_ratio",
    "spearman",
    "token_auroc",
    "token_mass_accuracy",
]
