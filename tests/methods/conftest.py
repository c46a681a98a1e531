import pytest

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.types import Pair
from tests.checkpoints import random_clip
from tests.methods.library import Library


@pytest.fixture(scope="package", params=["embedded", "random"])
def backbone(request, tmp_path_factory) -> Backbone:
    """The embedded model, then a random one."""
    if request.param == "embedded":
        return load_backbone("embedded")
    return load_backbone(str(random_clip(tmp_path_factory.mktemp("clip"))))


@pytest.fixture(scope="package")
def library(backbone) -> Library:
    return Library(backbone)


@pytest.fixture(scope="package")
def pairs() -> list[Pair]:
    """Captions of different lengths."""
    scenes = [make_scene(i, named=1 + i % 3) for i in range(4)]
    return [Pair(str(i), scene.image, scene.text) for i, scene in enumerate(scenes)]
