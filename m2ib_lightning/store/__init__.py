"""Results of a data set: a folder of Parquet parts, appended as pairs finish and readable without this package."""

from m2ib_lightning.errors import StoreError
from m2ib_lightning.store.parts import Provenance
from m2ib_lightning.store.reader import AttributionStore

__all__ = ["AttributionStore", "Provenance", "StoreError"]
