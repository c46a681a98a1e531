"""Loss terms: each one file, one class with a pure function behind it."""

from m2ib_lightning.losses.agreement import Agreement, agreement
from m2ib_lightning.losses.base import Bottlenecked, Embed, JointTerm, LossTerm, MovingTerm, Past
from m2ib_lightning.losses.compression import Compression, compression
from m2ib_lightning.losses.contrastive_relevance import ContrastiveRelevance, contrastive_relevance
from m2ib_lightning.losses.relevance import Relevance, along, relevance
from m2ib_lightning.losses.scheduled_compression import ScheduledCompression
from m2ib_lightning.losses.sparsity import Sparsity, sparsity
from m2ib_lightning.losses.total_variation import TotalVariation, total_variation

__all__ = [
    "Agreement",
    "Bottlenecked",
    "Compression",
    "ContrastiveRelevance",
    "Embed",
    "JointTerm",
    "LossTerm",
    "MovingTerm",
    "Past",
    "Relevance",
    "ScheduledCompression",
    "Sparsity",
    "TotalVariation",
    "agreement",
    "along",
    "compression",
    "contrastive_relevance",
    "relevance",
    "sparsity",
    "total_variation",
]
