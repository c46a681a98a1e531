"""The CLIP inside Hugging Face CLIPSeg (`CLIPSegModel`, `CLIPSegForImageSegmentation`); its decoder is not read."""

from __future__ import annotations

from typing import Any

from m2ib_lightning.backbones.clip import CLIPBackbone


class CLIPSegBackbone(CLIPBackbone):
    """A `CLIPSegModel` with its processor, which gives 352 pixels to a model of 224 and interpolates its positions."""

    # By the class that wrote it: up to transformers 5.20 the inner class finds no weight in a checkpoint of the outer.
    architectures = ("CLIPSegModel", "CLIPSegForImageSegmentation")

    def __init__(self, model: Any, processor: Any, name: str, image_size: tuple[int, int] | None = None) -> None:
        super().__init__(getattr(model, "clip", model), processor, name, image_size)
