"""Convolutional image towers: the bottleneck sits on a feature map, whose cells are the tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from m2ib_lightning.backbones.base import Tower, with_prefix
from m2ib_lightning.types import HiddenStates, Layer, PairBatch


class ConvolutionalTower(Tower):
    """The last blocks of a convolutional network, those that share one grid and one width.

    A cut needs maps of one shape, so what comes before the first of those blocks belongs to the embeddings.
    A further tower implements `head`.

    Args:
        before: What turns pixels (B, 3, H, W) into the feature map (B, D, gh, gw) that the first of `blocks` reads.
        blocks: The blocks that share the last grid and width, without the first of them (it belongs to the stem).
        size: (H, W) of the pixels it will be given.
        device: The device that the weights are on.
    """

    def __init__(
        self,
        before: Sequence[Callable[[Tensor], Tensor]],
        blocks: Sequence[nn.Module],
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.before, self.blocks, self.depth = list(before), list(blocks), len(blocks)
        with torch.no_grad():
            _, self.width, *cells = self.stem(torch.zeros(1, 3, *size, device=device)).shape
        self.cells: tuple[int, int] = (cells[0], cells[1])
        self.length = cells[0] * cells[1]

    def stem(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to the feature map before the first of `blocks`, (B, D, gh, gw)."""
        for part in self.before:
            pixels = part(pixels)
        return pixels

    @abstractmethod
    def head(self, maps: Tensor) -> Tensor:
        """Embeddings of the last feature map, (N, D, gh, gw) to (N, E), not normalised."""

    def prefix(self, batch: PairBatch, layer: Layer) -> HiddenStates:
        """The cells of the feature map after block `layer`, row by row."""
        self.check_layer(layer)
        maps = self.stem(batch.pixel_values)
        for block in self.blocks[: 0 if layer == "embeddings" else layer + 1]:
            maps = block(maps)
        states = rearrange(maps, "b d gh gw -> b (gh gw) d")
        return with_prefix(states, 0, False)

    def suffix(self, states: Tensor, hidden: HiddenStates, layer: Layer) -> Tensor:
        """Embeddings of cells after block `layer`, (K, B, L, D) to (K, B, E)."""
        maps = rearrange(states, "k b (gh gw) d -> (k b) d gh gw", gh=self.cells[0])
        for block in self.blocks[0 if layer == "embeddings" else layer + 1 :]:
            maps = block(maps)
        return rearrange(self.head(maps), "(k b) e -> k b e", k=len(states))

    def grid(self, batch: PairBatch) -> tuple[int, int]:
        """Rows and columns of the feature map."""
        return self.cells
