"""What a method says of the same pairs under a change: random weights, a nonsense text, a little noise."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import torch

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.types import Pair, PairBatch

BLOCK = re.compile(r"(.*?\b(?:layers?|resblocks|blocks|stages))\.(\d+)\.")
"""A weight of a block: its stack, and its place there."""

EMBEDS = re.compile(r"embed|conv1|stem")
"""A weight before the first block."""

NONSENSE = "quarterly minutes of the committee"
"""A caption that is unrelated to any picture it is tried on."""


class Sanity:
    """A method and its twins. The maps of the last batch are kept, since several metrics ask for them.

    Args:
        method: The method that explains.
        radius: How far the uniform noise on normalised pixels goes to either side, as Captum's sensitivity has it.
        samples: How many noisy copies of each image are explained.
        seed: The random weights and the noise follow from it.
    """

    def __init__(self, method: AttributionMethod, radius: float = 0.02, samples: int = 3, seed: int = 0) -> None:
        self.method, self.radius, self.samples, self.seed = method, radius, samples, seed
        self._twin: AttributionMethod | None = None
        self._kept: tuple[PairBatch | None, dict[str, list[list[Attribution]]]] = (None, {})

    def randomised(self, batch: PairBatch) -> list[Attribution]:
        """What the method says of each pair about a model with random weights."""
        return self._once("randomised", batch, lambda: [self.twin().attribute(batch)])[0]

    def nonsense(self, batch: PairBatch) -> list[Attribution]:
        """What the method says of each picture beside a nonsense text."""
        pairs = [Pair(pair.id, pair.image, NONSENSE, pair.source) for pair in batch.pairs]
        backbone = self.method.prepare()
        return self._once("nonsense", batch, lambda: [self.method.attribute(backbone.preprocess_pairs(pairs))])[0]

    def noisy(self, batch: PairBatch) -> list[list[Attribution]]:
        """Of each noisy copy of the images, of each pair; all pairs get the same noise."""
        return self._once("noisy", batch, lambda: [self.method.attribute(some) for some in self._with_noise(batch)])

    def _with_noise(self, batch: PairBatch) -> list[PairBatch]:
        generator, shape = torch.Generator().manual_seed(self.seed), batch.pixel_values.shape[1:]
        noise = (2 * torch.rand(self.samples, 1, *shape, generator=generator) - 1) * self.radius
        return [batch._replace(pixel_values=batch.pixel_values + some.to(batch.pixel_values)) for some in noise]

    @torch.inference_mode(False)  # copies that are made in it could take part in no gradient
    def twin(self) -> AttributionMethod:
        """The same method on a model with random weights; made once."""
        if self._twin is None:
            self._twin = copy.deepcopy(self.method)
            randomise(self._twin.prepare(), self.seed)
        return self._twin

    def cascade(self, batch: PairBatch) -> list[list[Attribution]]:
        """Of each part of `parts`, of each pair: by the model whose weights are random from the top down to that part.

        Cascading randomisation (Adebayo et al., 2018). The last is `randomised(batch)`.
        """
        count = len(parts(self.method.prepare()))
        return self._once("cascade", batch, lambda: [self._down_to(i + 1).attribute(batch) for i in range(count)])

    @torch.inference_mode(False)
    def _down_to(self, count: int) -> AttributionMethod:
        """The method on a model of which so many parts are random, from the top."""
        twin = copy.deepcopy(self.method)
        randomise_from_top(twin.prepare(), count, self.seed)
        return twin

    def _once(
        self, name: str, batch: PairBatch, made: Callable[[], list[list[Attribution]]]
    ) -> list[list[Attribution]]:
        """What was made of the last batch under a name, made where it was not yet."""
        if self._kept[0] is not batch:
            self._kept = (batch, {})
        kept = self._kept[1]
        if name not in kept:
            kept[name] = made()
        return kept[name]


def parts(backbone: Backbone) -> dict[str, list[str]]:
    """Names of the model's weights by part, from the top: "head", "block -1", ..., "embeddings".

    Blocks of both towers are counted from their own top, so that the shorter tower is done first.
    """
    names = [name for name, p in backbone.model.named_parameters() if p.ndim > 1]
    places = {name: match for name in names if (match := BLOCK.match(name))}
    depths: dict[str, int] = {}
    for match in places.values():
        depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    found: dict[str, list[str]] = {"head": []}
    found |= {f"block -{i}": [] for i in range(1, max(depths.values(), default=0) + 1)}
    found["embeddings"] = []
    for name in names:
        if name in places:
            part = f"block -{depths[places[name][1]] - int(places[name][2])}"
        else:
            part = "embeddings" if EMBEDS.search(name) else "head"
        found[part].append(name)
    return found


@torch.no_grad()
def randomise_from_top(backbone: Backbone, count: int, seed: int = 0) -> None:
    """Give the first `count` of `parts` the weights that `randomise` gives them; the others stay."""
    random = copy.deepcopy(backbone)
    randomise(random, seed)
    weights, others = dict(backbone.model.named_parameters()), dict(random.model.named_parameters())
    for names in list(parts(backbone).values())[:count]:
        for name in names:
            weights[name].copy_(others[name])
    backbone.__dict__.pop("weight_hash", None)


@torch.no_grad()
def randomise(backbone: Backbone, seed: int = 0) -> None:
    """Shuffle the elements within each of the model's weights, from the last to the first.

    Shuffling keeps every weight's distribution, so that a random model computes with numbers of the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [p for p in backbone.model.parameters() if p.ndim > 1]
    for weight in reversed(weights):
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    # The hash of the weights is kept once it is computed.
    backbone.__dict__.pop("weight_hash", None)
