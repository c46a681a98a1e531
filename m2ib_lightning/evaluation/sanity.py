"""What a method says of the same pairs under a change: random weights, a nonsense text, a little noise."""

from __future__ import annotations

import copy

import torch

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.types import Pair, PairBatch

NONSENSE = "quarterly minutes of the committee"
"""A caption that is unrelated to any picture it is tried on."""


class Sanity:
    """A method and its twins. The maps of the last batch are kept, since several metrics ask for them.

    Args:
        method: Explained with.
        share: Of the model's weights that are randomised, counted from the top; 1 for all.
        radius: Of the uniform noise on normalised pixels, as Captum's sensitivity has it.
        samples: Noisy copies of each image.
        seed: Of the random weights and of the noise.
    """

    def __init__(
        self, method: AttributionMethod, share: float = 1.0, radius: float = 0.02, samples: int = 3, seed: int = 0
    ) -> None:
        self.method, self.share, self.radius, self.samples, self.seed = method, share, radius, samples, seed
        self._twin: AttributionMethod | None = None
        self._kept: tuple[PairBatch | None, dict[str, list[list[Attribution]]]] = (None, {})

    def maps(self, batch: PairBatch, kind: str) -> list[Attribution]:
        """Of each pair, by the "randomised" model or for the "nonsense" text."""
        kept = self._of(batch)
        if kind not in kept:
            if kind == "randomised":
                kept[kind] = [self.twin().attribute(batch)]
            else:
                pairs = [Pair(pair.id, pair.image, NONSENSE, pair.source) for pair in batch.pairs]
                kept[kind] = [self.method.attribute(self.method.prepare().preprocess_pairs(pairs))]
        return kept[kind][0]

    def noisy(self, batch: PairBatch) -> list[list[Attribution]]:
        """Of each noisy copy of the images, of each pair; all pairs get the same noise."""
        kept = self._of(batch)
        if "noisy" not in kept:
            generator = torch.Generator().manual_seed(self.seed)
            shape = batch.pixel_values.shape[1:]
            noise = (2 * torch.rand(self.samples, 1, *shape, generator=generator) - 1) * self.radius
            kept["noisy"] = [
                self.method.attribute(batch._replace(pixel_values=batch.pixel_values + some.to(batch.pixel_values)))
                for some in noise
            ]
        return kept["noisy"]

    def twin(self) -> AttributionMethod:
        """The same method on a model with random weights; made once."""
        if self._twin is None:
            self._twin = copy.deepcopy(self.method)
            backbone = self._twin.prepare()
            randomise(backbone, self.share, self.seed)
        return self._twin

    def _of(self, batch: PairBatch) -> dict[str, list[list[Attribution]]]:
        if self._kept[0] is not batch:
            self._kept = (batch, {})
        return self._kept[1]


@torch.no_grad()
def randomise(backbone: Backbone, share: float = 1.0, seed: int = 0) -> None:
    """Shuffle the elements within each weight, from the last to the first, of `share` of the model's weights.

    Shuffling keeps every weight's distribution, so that a random model computes with numbers of the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [p for p in backbone.model.parameters() if p.ndim > 1]
    for weight in reversed(weights[len(weights) - round(share * len(weights)) :]):
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    # The hash of the weights is kept once it is computed.
    backbone.__dict__.pop("weight_hash", None)
