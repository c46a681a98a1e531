"""Where pairs come from: files, folders, memory, data sets with ground truth, and composed scenes."""

from m2ib_lightning.data.coco import COCO
from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.composed import Scenes
from m2ib_lightning.data.conceptual_captions import ConceptualCaptions
from m2ib_lightning.data.datamodule import PairDataModule
from m2ib_lightning.data.first_pairs import FirstPairs
from m2ib_lightning.data.flickr30k import Flickr30kEntities
from m2ib_lightning.data.huggingface import HuggingFace
from m2ib_lightning.data.imagenet_s import ImageNetS
from m2ib_lightning.data.images import StoredImage, check_image, load_image
from m2ib_lightning.data.ms_cxr import MSCXR
from m2ib_lightning.data.pairs import PairReference, PairSource, check_all, make_references, read_pair
from m2ib_lightning.data.refcoco import RefCOCO
from m2ib_lightning.data.scene_kinds import KINDS, Kind, scene_counts
from m2ib_lightning.data.scenes import Scene, SceneObject, make_caption, make_scene, object_names
from m2ib_lightning.data.sources import open_source
from m2ib_lightning.data.truth import MaskFile, Polygon, RunLengths, TruthReference

__all__ = [
    "COCO",
    "KINDS",
    "MSCXR",
    "Columns",
    "ConceptualCaptions",
    "FirstPairs",
    "Flickr30kEntities",
    "HuggingFace",
    "ImageNetS",
    "Kind",
    "MaskFile",
    "PairDataModule",
    "PairReference",
    "PairSource",
    "Polygon",
    "RefCOCO",
    "RunLengths",
    "Scene",
    "SceneObject",
    "Scenes",
    "StoredImage",
    "TruthReference",
    "check_all",
    "check_image",
    "load_image",
    "make_caption",
    "make_references",
    "make_scene",
    "object_names",
    "open_source",
    "read_pair",
    "scene_counts",
]
