"""Where pairs come from: files, folders, memory, and composed scenes with ground truth."""

from m2ib_lightning.data.datamodule import PairDataModule, SceneReferences
from m2ib_lightning.data.images import check_image, load_image
from m2ib_lightning.data.pairs import PairReference, check_all, make_references, read_pair, read_source
from m2ib_lightning.data.scenes import Scene, SceneObject, make_caption, make_scene, object_names

__all__ = [
    "PairDataModule",
    "PairReference",
    "Scene",
    "SceneObject",
    "SceneReferences",
    "check_all",
    "check_image",
    "load_image",
    "make_caption",
    "make_references",
    "make_scene",
    "object_names",
    "read_pair",
    "read_source",
]
