"""Patches whose hidden states are far longer than the others: a model's notes to itself, not parts of a picture.

Large vision transformers use a few patches of little content as registers, with hidden states several times as long as
the rest (Darcet, Oquab, Mairal, Bojanowski, "Vision Transformers Need Registers", ICLR 2024, arXiv 2309.16588). With a
unit prior their capacity is large for their length alone and they outshine a map; a measured prior tames them in part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from einops import rearrange

from m2ib_lightning.backbones.base import Backbone
from m2ib_lightning.types import Layer, PairBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMES = 2.0
"""A patch is outlying if its hidden state is longer than this times the median of its picture's patches."""


class Artefacts(NamedTuple):
    """What is outlying in one picture.

    Attributes:
        norms: (gh, gw) float32, the Euclidean length of each patch's hidden state.
        outlying: Which cells have outlying norms, (gh, gw) bool.
    """

    norms: NDArray[np.float32]
    outlying: NDArray[np.bool_]

    def fill(self, image_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of a map in which each outlying cell has the median of its neighbours that are not.

        The option for maps that artefacts dominate: the raw map is left as it is, and what was filled in is no
        attribution any more. A cell without such neighbours gets 0.

        Args:
            image_map: The map whose artefacts are filled, (gh, gw).

        Raises:
            ValueError: The map has another shape.

        Example:
            >>> norms = np.array([[1, 1, 9], [1, 1, 1]], dtype=np.float32)
            >>> Artefacts(norms, norms > 2).fill(np.array([[1, 2, 99], [3, 4, 5]], dtype=np.float32))
            array([[1., 2., 4.],
                   [3., 4., 5.]], dtype=float32)
        """
        if image_map.shape != self.outlying.shape:
            raise ValueError(
                f"Expected a map of {self.outlying.shape} cells but got {image_map.shape}. "
                "Remedy: give the map of the same picture and backbone."
            )
        filled = image_map.copy()
        for row, column in zip(*np.nonzero(self.outlying), strict=True):
            around = (slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2))
            sound = image_map[around][~self.outlying[around]]
            filled[row, column] = np.median(sound) if sound.size else 0
        return filled


@torch.no_grad()
def find_artefacts(backbone: Backbone, batch: PairBatch, layer: Layer, times: float = TIMES) -> list[Artefacts]:
    """Patches with outlying hidden-state norms after a block of the image tower.

    Args:
        backbone: The model to look into.
        batch: Pictures, as `backbone.preprocess` gives them.
        layer: The layer that the bottleneck sits at.
        times: A patch is outlying if its norm is above this many times the picture's median norm; above 1.

    Returns:
        One report per picture.

    Raises:
        ValueError: The tower cannot be cut there, or `times` is not above 1.

    Example:
        >>> from PIL import Image
        >>> from m2ib_lightning import load_backbone
        >>> backbone = load_backbone("embedded")
        >>> batch = backbone.preprocess([Image.new("RGB", (96, 96))], ["nothing"])
        >>> find_artefacts(backbone, batch, layer=3)[0].norms.shape == backbone.image.grid(batch)
        True
    """
    if times <= 1:
        raise ValueError(f"Expected `times` to be above 1 but got {times}. Remedy: 2 marks what is twice as long.")
    hidden = backbone.image.prefix(batch, layer)
    reports = []
    grids = backbone.image.grids(batch) or []
    for states, special, grid in zip(hidden.states, hidden.special, grids, strict=True):
        norms = rearrange(states[~special].norm(dim=-1), "(gh gw) -> gh gw", gh=grid[0])
        reports.append(Artefacts(norms.cpu().numpy(), (norms > times * norms.median()).cpu().numpy()))
    return reports
