"""RISE: random masks weighed by the similarity that they leave (Petsiuk, Das, Saenko, BMVC 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least, check_between
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import MODALITIES, Modality

AT_ONCE = 64
"""Masks that are made at once; each is as large as the image."""


class RISE(Baseline):
    """1 / (N p) sum over k of cos(x * m_k) m_k, with N random masks that all pairs share.

    An image's masks are coarse grids of 0 and 1 (1 with probability p), enlarged bilinearly and shifted by less than a
    cell; a text's keep each content token with probability p.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        samples: N, at least 1. The paper has 4000 for VGG and 8000 for ResNet.
        cells: How many cells the coarse grid has per side, at least 1.
        keep: p, above 0 and below 1.
        seed: The masks follow from it; another one gives other masks.

    Raises:
        ValueError: A number is out of its range.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        samples: int = 4000,
        cells: int = 7,
        keep: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("samples", samples, 1)
        check_at_least("cells", cells, 1)
        check_between("keep", keep, 0, 1)
        self.samples, self.cells, self.keep, self.seed = samples, cells, keep, seed

    def relevance(self, objective: Objective) -> Tensor:
        """Weighted mean of the masks, averaged over the pixels of a patch; (b, gh, gw) or (b, l)."""
        generator = torch.Generator().manual_seed(self.seed)
        total = torch.zeros((), device=objective.inputs.device)
        for start in range(0, self.samples, AT_ONCE):
            masks = self.masks(objective, min(AT_ONCE, self.samples - start), generator)
            scores = objective.masked(rearrange(masks, "k ... -> k 1 ..."))
            weighted = einsum(scores, masks, "k b, k ... -> b ...")
            total = total + (F.adaptive_avg_pool2d(weighted, objective.grid) if objective.grid else weighted)
        values = total / (self.samples * self.keep)
        return values if objective.grid else values * objective.content

    def masks(self, objective: Objective, count: int, generator: torch.Generator) -> Tensor:
        """The next masks, (k, h, w) or (k, l)."""
        if not objective.grid:
            return rearrange(objective.random_masks(count, self.keep, generator), "k 1 l -> k l")
        height, width = objective.inputs.shape[-2:]
        return coarse_masks(count, (height, width), self.cells, self.keep, generator).to(objective.inputs.device)


def coarse_masks(count: int, size: tuple[int, int], cells: int, keep: float, generator: torch.Generator) -> Tensor:
    """(k, h, w) in [0, 1]: coarse 0/1 grids, enlarged by one cell more than needed and cropped at random."""
    height, width = size
    step = (-(-height // cells), -(-width // cells))
    grid = (torch.rand(count, 1, cells, cells, generator=generator) < keep).float()
    shifts = torch.stack([torch.randint(s, (count,), generator=generator) for s in step], 1).tolist()
    large = F.interpolate(grid, ((cells + 1) * step[0], (cells + 1) * step[1]), mode="bilinear", align_corners=False)
    return torch.stack([m[0, y : y + height, x : x + width] for m, (y, x) in zip(large, shifts, strict=True)])
