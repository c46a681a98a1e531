"""Hugging Face SigLIP 2 NaFlex (`Siglip2Model`): each picture in its own proportions, as patches with a mask.

SigLIP 2 at fixed resolutions is the class of `siglip.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from m2ib_lightning.backbones.base import Tower, check_whole_patches
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.siglip import SiglipTextTower, check_head
from m2ib_lightning.backbones.transformer import PreNormBlock, TransformerTower
from m2ib_lightning.types import Box, HiddenStates, PairBatch


class NaFlexImageTower(TransformerTower):
    """The vision transformer; pictures of a batch have grids of their own, and its head attends to all their patches.

    It reads pictures padded to one size with NaN, which says where each one ends.
    """

    reads = "attention over all patches"

    def __init__(self, vision: Any, length: int) -> None:
        check_head(vision)
        self.vision = vision
        self.patch: int = vision.config.patch_size
        blocks = [PreNormBlock(layer) for layer in vision.encoder.layers]
        super().__init__(blocks, vision.config.hidden_size, length, masked=True)

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """The patches, row by row, padded to the picture with the most of them."""
        grids = self.grids(batch)
        patches = [
            to_patches(picture, grid, self.patch) for picture, grid in zip(batch.pixel_values, grids, strict=True)
        ]
        device = batch.pixel_values.device
        counts = torch.tensor([len(p) for p in patches], device=device)
        valid = torch.arange(int(counts.max()), device=device) < rearrange(counts, "b -> b 1")
        states = self.vision.embeddings(pad_sequence(patches, batch_first=True), torch.tensor(grids))
        return HiddenStates(states, valid, ~valid, None)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, L, D) to (N, E)."""
        return self.vision.head(self.vision.post_layernorm(states), valid)

    def grids(self, batch: PairBatch) -> list[tuple[int, int]]:
        """Patches per column and per row of each picture."""
        inside = ~batch.pixel_values[:, 0].isnan()
        heights, widths = inside[:, :, 0].sum(1).tolist(), inside[:, 0].sum(1).tolist()
        return [(h // self.patch, w // self.patch) for h, w in zip(heights, widths, strict=True)]

    def grid(self, batch: PairBatch) -> tuple[int, int]:
        """Patches per column and per row, if all pictures agree.

        Raises:
            ValueError: They do not.
        """
        grids = set(self.grids(batch))
        if len(grids) > 1:
            raise ValueError(
                f"Expected pictures of one shape in a batch but their grids are {sorted(grids)}. "
                "Remedy: batch_size=1, or an `image_size`, which gives all pictures one shape."
            )
        return grids.pop()


class Siglip2Backbone(HuggingFaceBackbone):
    """A `Siglip2Model` with its processor; `image_size` gives every picture the same size instead of its own."""

    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """Two transformers that are not causal."""
        vision, processor = model.vision_model, self.processor.image_processor
        length = check_whole_patches(self.image_size, processor.patch_size) if self.resized else self._most_patches
        return NaFlexImageTower(vision, length), SiglipTextTower(model.text_model)

    def default_image_size(self) -> tuple[int, int]:
        """(H, W) of a square picture."""
        side = int(self._most_patches**0.5) * self.processor.image_processor.patch_size
        return side, side

    @property
    def _most_patches(self) -> int:
        return self.processor.image_processor.max_num_patches

    def read_images(self, images: Sequence[Image.Image]) -> tuple[Tensor, tuple[Box, ...]]:
        """(B, 3, H, W) with NaN where a picture has ended, and what was seen: all of it."""
        processor, most = self.processor.image_processor, self._most_patches
        pictures = [image.convert("RGB") for image in images]
        if self.resized:
            height, width = self.image_size
            pictures = [picture.resize((width, height), Image.Resampling.BILINEAR) for picture in pictures]
            most = self.image.length
        read = processor(images=pictures, return_tensors="pt", max_num_patches=most)
        shapes = read["spatial_shapes"].tolist()
        patch = processor.patch_size
        canvas = torch.full(
            (len(images), 3, max(h for h, _ in shapes) * patch, max(w for _, w in shapes) * patch), torch.nan
        )
        for place, patches, (h, w) in zip(canvas, read["pixel_values"], shapes, strict=True):
            place[:, : h * patch, : w * patch] = to_picture(patches[: h * w], (h, w), patch)
        return canvas, ((0.0, 0.0, 1.0, 1.0),) * len(images)


def to_patches(picture: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """(gh * gw, side * side * 3), as the library orders them, of the upper left of a (3, H, W) picture."""
    cut = picture[:, : grid[0] * side, : grid[1] * side]
    return rearrange(cut, "c (gh y) (gw x) -> (gh gw) (y x c)", y=side, x=side)


def to_picture(patches: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """The reverse: (3, gh * side, gw * side)."""
    return rearrange(patches, "(gh gw) (y x c) -> c (gh y) (gw x)", gh=grid[0], y=side, x=side)
