"""FIxLIP: weighted Banzhaf interactions of patches and tokens (Baniecki et al., NeurIPS 2025; arXiv 2508.05430)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least, check_between
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.objective import Objective, objectives
from m2ib_lightning.types import MODALITIES, Modality, PairBatch


class FIxLIP(Baseline):
    """Best fit of the similarity of masked pairs by a sum over parts and pairs of parts, each kept with chance p.

    Players are patches and content tokens; one that is left out is filled with 0. The value of a player i is
    E[f (s_i - p)] / (p (1 - p)), with f the objective and s the mask: how much it adds on average. That of a patch and
    a token is E[f (s_i - p) (t_j - p)] / (p (1 - p))^2, over masks s of the picture and t of the text, which are drawn
    apart, so that every mask of the one is held against every mask of the other. Both are the coefficients of the least
    squares fit that is weighed by how likely each mask is.

    The maps are the values; `interactions` gives those of pairs.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        samples: Masks of each modality, at least 2.
        keep: p, above 0 and below 1.
        seed: The masks follow from it.

    Raises:
        ValueError: A number is out of its range.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        samples: int = 1000,
        keep: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities)
        check_at_least("samples", samples, 2)
        check_between("keep", keep, 0, 1)
        self.samples, self.keep, self.seed = samples, keep, seed

    def relevance(self, objective: Objective) -> Tensor:
        """Weighted Banzhaf values, (b, gh, gw) or (b, l)."""
        masks, centred = self.masks(objective)
        scores = objective.masked(masks)
        scores = scores - reduce(scores, "k b -> b", "mean")  # changes no expectation, and lessens the noise
        values = einsum(scores, centred, "k b, k o ... -> b ...") / self._scale
        return values if objective.grid else values * objective.content

    @torch.no_grad()
    def interactions(self, batch: PairBatch) -> list[Tensor]:
        """Of each pair (gh, gw, l): how much more a patch adds where a token is kept; 0 for special tokens."""
        both = objectives(self.prepare(), batch)
        image, text = both["image"], both["text"]
        shown, patches = self.masks(image)
        read, tokens = self.masks(text)
        pictures = F.normalize(image.masked_embeddings(shown), dim=-1)
        captions = F.normalize(text.masked_embeddings(read), dim=-1)
        # The mean over masks of either side is no interaction.
        pictures, captions = (x - reduce(x, "k b e -> 1 b e", "mean") for x in (pictures, captions))
        by_patch = einsum(pictures, patches, "k b e, k o gh gw -> b gh gw e") / self._scale
        by_token = einsum(captions, tokens, "k b e, k o l -> b l e") / self._scale
        found = einsum(by_patch, by_token, "b gh gw e, b l e -> b gh gw l")
        return list(found * rearrange(text.content, "b l -> b 1 1 l"))

    def masks(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """Masks of 0 and 1 as `Objective.masked` takes them, and the same less p: (k, 1, gh, gw) or (k, 1, l)."""
        masks = objective.random_masks(self.samples, self.keep, torch.Generator().manual_seed(self.seed))
        return masks, masks - self.keep

    @property
    def _scale(self) -> float:
        """Of a sum over masks."""
        return self.samples * self.keep * (1 - self.keep)
