"""What tests of the methods make and ask."""

import numpy as np
from lightning.pytorch import Trainer

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import M2IB
from m2ib_lightning.types import Pair

FAST = {"steps": 5, "noise_samples": 3}


def scene_pairs(count: int) -> list[Pair]:
    """Scenes of which one, two or three objects are named, as pairs."""
    scenes = [make_scene(i, named=1 + i % 3) for i in range(count)]
    return [Pair(str(i), scene.image, scene.text) for i, scene in enumerate(scenes)]


def assert_same_maps(ours: Attribution, theirs: Attribution, tolerance: float = 1e-4) -> None:
    """Largest difference over largest value: ten Adam steps amplify float32 rounding, to about 2e-5 when tried."""
    for name in ("image_map", "text_map"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if a is None and b is None:
            continue
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name


def explain(backbone: Backbone, pairs: list[Pair], **arguments) -> list[Attribution]:
    """What M2IB says of pairs in one batch."""
    return M2IB(backbone, **arguments).attribute(backbone.preprocess_pairs(pairs))


def quiet_trainer(**arguments) -> Trainer:
    """One that prints and writes nothing."""
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **arguments,
    )  # fmt: skip
