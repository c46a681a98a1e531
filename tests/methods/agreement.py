"""Comparing a method's maps with a reference, for each pair of a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.types import Modality, PairBatch
from tests.methods.library import Library

Reference = Callable[[Library, Modality, PairBatch, Tensor], Tensor]
"""From the library, the modality, a batch of one pair and its input to values per token (L,), special ones included."""


def assert_agrees(
    method: AttributionMethod, library: Library, pairs, reference: Reference, tolerance: float = 1e-4
) -> None:
    """Both maps of each pair, explained in one batch: largest difference over largest value."""
    backbone = method.prepare()
    results = method.attribute(backbone.preprocess_pairs(pairs))
    for result, pair in zip(results, pairs, strict=True):
        batch, pixels, embeddings = library.single(backbone, pair)
        for modality, x in (("image", pixels), ("text", embeddings)):
            expected = reference(library, modality, batch, x).detach().numpy()
            found = result.image_map.ravel() if modality == "image" else result.text_map
            expected = expected[-found.size :] if modality == "image" else expected
            assert expected.shape == found.shape
            scale = np.abs(expected).max()
            # A map of zeros, where every value is cut off at 0, must be one.
            off = np.abs(found - expected).max()
            assert off <= tolerance * scale + 1e-9, (modality, pair.id, off / scale)


def per_patch(values: Tensor, backbone: Backbone, batch: PairBatch) -> Tensor:
    """Values per pixel (3, H, W) summed over channels and patches by a slow loop, (gh * gw,)."""
    rows, columns = backbone.image.grid(batch)
    height, width = values.shape[1] // rows, values.shape[2] // columns
    return torch.stack([
        values[:, r * height : (r + 1) * height, c * width : (c + 1) * width].sum()
        for r in range(rows) for c in range(columns)
    ])  # fmt: skip


def read_of(modality: Modality, length: int) -> int:
    """The token that the head reads: CLS, or EOS, the last one of a single text."""
    return 0 if modality == "image" else length - 1
