"""Captions and pictures that belong to no pair, as a model embeds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data.images import load_image
from m2ib_lightning.types import Modality

AT_ONCE = 32


def embed_alone(backbone: Backbone, modality: Modality, items: Sequence[Any]) -> Tensor:
    """Clean embeddings (N, E), not normalised; no gradient.

    Args:
        backbone: The model that embeds.
        modality: Whether they are captions or pictures.
        items: Captions, or pictures or their files; at least one.

    Raises:
        ValueError: A caption is empty or a file cannot be read.
    """
    found = []
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        # The other tower's input is made but not read.
        height, width = backbone.image_size
        pictures = [Image.new("RGB", (width, height)) if modality == "text" else load_image(item) for item in some]
        batch = backbone.preprocess(pictures, list(some) if modality == "text" else ["nothing"] * len(some))
        found.append(backbone.embed(modality, batch).float())
    return torch.cat(found)
