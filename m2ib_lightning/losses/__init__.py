"""Loss terms: each one file, one class with a pure function behind it."""

from m2ib_lightning.losses.base import Bottlenecked, LossTerm
from m2ib_lightning.losses.compression import Compression, compression
from m2ib_lightning.losses.relevance import Relevance, relevance

__all__ = ["Bottlenecked", "Compression", "LossTerm", "Relevance", "compression", "relevance"]
