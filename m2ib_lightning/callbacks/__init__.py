"""Lightning callbacks: one file each."""

from m2ib_lightning.callbacks.results import ResultWriter

__all__ = ["ResultWriter"]
