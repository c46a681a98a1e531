"""Everything that metrics ask for about a batch of explained pairs; the only place where they cause forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation.protocol import Protocol
from m2ib_lightning.evaluation.released import first_rows, stripped_scores
from m2ib_lightning.evaluation.sanity import Sanity
from m2ib_lightning.evaluation.truth import shares, true_tokens
from m2ib_lightning.methods.objective import Objective, objectives
from m2ib_lightning.metrics import spearman
from m2ib_lightning.parts import Phrase
from m2ib_lightning.phrases import around
from m2ib_lightning.types import Box, Modality, PairBatch

BLUR = (11, 5.0)
"""Side and sigma of the Gaussian that an insertion starts from, as RISE has them."""


class BatchEvidence:
    """The evidence of a batch of pairs, each kind computed for all of them when the first is asked for.

    Args:
        sanity: The method, and what it says of changed models and inputs.
        batch: The pairs as the model reads them.
        attributions: What the method said of them.
        protocol: How inputs are masked.
    """

    def __init__(
        self,
        sanity: Sanity,
        batch: PairBatch,
        attributions: Sequence[Attribution],
        protocol: Protocol,
    ) -> None:
        self.sanity, self.batch, self.protocol = sanity, batch, protocol
        self.attributions = list(attributions)
        self.truths = [pair.truth for pair in batch.pairs]
        self._scored: dict[Modality, tuple[Tensor, Tensor]] = {}
        self._curves: dict[tuple[Modality, str], Tensor] = {}
        self._falls: dict[Modality, tuple[Tensor, Tensor]] = {}

    def pairs(self) -> list[PairEvidence]:
        """The same, pair by pair, as metrics take it."""
        return [PairEvidence(self, index) for index in range(len(self.attributions))]

    def explained(self, modality: Modality) -> bool:
        """Whether the method made maps of a modality."""
        return self.attributions[0].map_of(modality) is not None

    @cached_property
    def objectives(self) -> dict[Modality, Objective]:
        """Cosine similarity as a function of each input."""
        return objectives(self.sanity.method.prepare(), self.batch)

    def cells(self) -> Tensor:
        """The raw image maps, a value per patch, (b, gh, gw)."""
        maps = [a.image_map for a in self.attributions if a.image_map is not None]
        return torch.from_numpy(np.stack(maps)).to(self.objectives["image"].inputs.device)

    def maps(self, modality: Modality) -> Tensor:
        """The raw maps at the size of the model's input: (b, h, w), or (b, l) with 0 for special tokens."""
        objective = self.objectives[modality]
        if modality == "image":
            size = self.batch.pixel_values.shape[-2:]
            spread = F.interpolate(rearrange(self.cells(), "b gh gw -> b 1 gh gw"), size, mode="bilinear")
            return rearrange(spread, "b 1 h w -> b h w")
        values = torch.zeros(objective.content.shape)
        for row, a in zip(values, self.attributions, strict=True):
            row[: len(a.tokens)] = torch.from_numpy(np.asarray(a.text_map))
        return values.to(objective.inputs.device) * objective.content

    def masks(self, modality: Modality) -> Tensor:
        """The same in [0, 1]: negative values at 0, the largest of each pair at 1."""
        maps = self.maps(modality).clamp(min=0)
        top = maps.amax(tuple(range(1, maps.ndim)), keepdim=True)
        return maps / top.clamp(min=torch.finfo(maps.dtype).tiny)

    def scores(self, modality: Modality) -> tuple[Tensor, Tensor]:
        """Cosines (b,) of the clean pairs and with the input multiplied by its map, as the protocol reads them."""
        if modality not in self._scored:
            self._scored[modality] = self._scores(modality)
        return self._scored[modality]

    def _scores(self, modality: Modality) -> tuple[Tensor, Tensor]:
        objective = self.objectives[modality]
        if self.protocol.name == "corrected":
            masks = self.masks(modality)
        elif modality == "image":
            masks = first_rows(self.maps("image"))
        else:
            return stripped_scores(objective, self.maps("text"))
        return objective.clean, objective.masked(rearrange(masks, "b ... -> 1 b ..."))[0]

    def curve(self, modality: Modality, kind: Literal["insertion", "deletion"]) -> Tensor:
        """Cosines (b, s + 1) along an insertion into a blurred image (a text of no tokens), or a deletion."""
        if (modality, kind) not in self._curves:
            self._curves[modality, kind] = self._curve(modality, kind)
        return self._curves[modality, kind]

    def _curve(self, modality: Modality, kind: Literal["insertion", "deletion"]) -> Tensor:
        objective, maps = self.objectives[modality], self.maps(modality)
        content = objective.content if modality == "text" else torch.ones_like(maps, dtype=torch.bool)
        shown = first_shown(maps, content, self.protocol.steps, self.protocol.seed)
        start = blurred(objective.inputs) if modality == "image" and kind == "insertion" else None
        scores = objective.masked(shown if kind == "insertion" else 1 - shown, start)
        return rearrange(scores, "s b -> b s")

    def fidelity(self, modality: Modality) -> tuple[Tensor, Tensor]:
        """Sums of the map over what random maskings hide, and how far the cosine falls, (k, b) each."""
        if modality not in self._falls:
            self._falls[modality] = self._fidelity(modality)
        return self._falls[modality]

    def _fidelity(self, modality: Modality) -> tuple[Tensor, Tensor]:
        objective = self.objectives[modality]
        generator = torch.Generator().manual_seed(self.protocol.seed)
        keep = objective.random_masks(self.protocol.masks, 0.5, generator)
        values = self.cells() if modality == "image" else self.maps("text")
        hidden = reduce((1 - keep) * values, "k b ... -> k b", "sum")
        return hidden, objective.clean - objective.masked(keep)


class PairEvidence:
    """One pair of a `BatchEvidence`; see `metrics.Evidence` for what each gives."""

    def __init__(self, batch: BatchEvidence, index: int) -> None:
        self.batch, self.index = batch, index
        self.attribution, self.known = batch.attributions[index], batch.truths[index]

    def saliency(self, modality: Modality) -> Tensor | None:
        """The raw map, at the size of the truth if it is of an image."""
        a = self.attribution
        if modality == "text":
            return None if a.text_map is None else torch.from_numpy(a.text_map)
        return None if a.image_map is None or self.known.mask is None else spread(a, self.known.mask.shape)

    def heatmap(self, modality: Modality) -> Tensor | None:
        """The image map in [0, 1]."""
        raw = self.saliency("image") if modality == "image" else None
        return None if raw is None else raw.clamp(min=0) / raw.amax().clamp(min=torch.finfo(raw.dtype).tiny)

    def values(self, modality: Modality) -> Tensor | None:
        """The raw map as the method gave it, special tokens left out."""
        return flat_map(self.attribution, modality) if self.batch.explained(modality) else None

    def truth(self, modality: Modality) -> Tensor | None:
        """What should be found."""
        if modality == "image":
            return None if self.known.mask is None else torch.from_numpy(np.array(self.known.mask))
        spans = self.known.spans
        return None if spans is None else torch.from_numpy(true_tokens(self.attribution, spans))

    def phrase_maps(self, modality: Modality) -> Tensor | None:
        """The raw maps of the phrases whose truth is known, each patch spread over its pixels."""
        found = self._phrases()
        return (
            torch.stack([spread_cells(p.image_map, self.attribution.view, m.shape) for p, m in found])
            if found
            else None
        )

    def phrase_truths(self, modality: Modality) -> Tensor | None:
        """What each of these phrases names."""
        found = self._phrases()
        return torch.stack([torch.from_numpy(mask) for _, mask in found]) if found else None

    def phrase_patches(self, modality: Modality) -> Tensor | None:
        """The raw maps of these phrases, a value per patch."""
        found = self._phrases()
        return torch.stack([torch.from_numpy(p.image_map) for p, _ in found]) if found else None

    def phrase_touched(self, modality: Modality) -> Tensor | None:
        """The patches with a pixel of what each of these phrases names."""
        found = self._phrases()
        view = self.attribution.view
        return torch.stack([touched(mask, view, p.image_map.shape) for p, mask in found]) if found else None

    def phrase_others(self, modality: Modality) -> Tensor | None:
        """The other things that the text names, or that could be taken for what it names."""
        masks = [torch.from_numpy(part.mask) for part in self.known.parts]
        own = self.phrase_truths(modality)
        return None if own is None else torch.stack(masks).any(0) & ~own

    def _phrases(self) -> list[tuple[Phrase, NDArray[np.bool_]]]:
        """The phrases that name what one part of the truth does, with its pixels."""
        found = []
        for phrase in self.attribution.phrases:
            named = [part.mask for part in self.known.parts if part.span and shares(*part.span, [phrase.span])]
            if len(named) == 1 and named[0].any():
                found.append((phrase, named[0]))
        return found

    def region_maps(self, modality: Modality) -> Tensor | None:
        """The raw values of tokens for the regions whose words are known."""
        found = self._regions()
        return torch.stack([torch.from_numpy(values) for values, _ in found]) if found else None

    def region_truths(self, modality: Modality) -> Tensor | None:
        """The tokens that name what each of these regions shows."""
        found = self._regions()
        return torch.stack([torch.from_numpy(true) for _, true in found]) if found else None

    def _regions(self) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Of each region around one thing that the text names, the values of tokens and the tokens that name it."""
        boxes = {around(part.mask): part.span for part in self.known.parts if part.span and part.mask.any()}
        return [
            (region.text_map, true_tokens(self.attribution, [boxes[region.box]]))
            for region in self.attribution.regions
            if region.box in boxes
        ]

    def content(self, modality: Modality) -> Tensor | None:
        """The text's tokens without special ones."""
        return torch.from_numpy(~self.attribution.special) if modality == "text" else None

    def words(self, modality: Modality) -> Tensor | None:
        """The text map by words, the mean of each one's tokens."""
        a = self.attribution
        if modality == "image" or a.text_map is None:
            return None
        sizes = a.word_spans(np.ones_like(a.text_map))
        return torch.tensor([total / n for (*_, total), (*_, n) in zip(a.word_spans(), sizes, strict=True)])

    def named(self, modality: Modality) -> Tensor | None:
        """Which words should be found."""
        spans, a = self.known.spans, self.attribution
        if modality == "image" or a.text_map is None or spans is None:
            return None
        return torch.tensor([shares(start, end, spans) for start, end, _ in a.word_spans()])

    def score(self, modality: Modality) -> Tensor | None:
        """Cosine of the clean pair, as the protocol reads its text."""
        return known(self.batch.scores(modality)[0][self.index]) if self.batch.explained(modality) else None

    def masked_score(self, modality: Modality) -> Tensor | None:
        """Cosine with the input multiplied by its map."""
        return known(self.batch.scores(modality)[1][self.index]) if self.batch.explained(modality) else None

    def insertion(self, modality: Modality) -> Tensor | None:
        """Cosines along an insertion."""
        return self.batch.curve(modality, "insertion")[self.index].cpu() if self.batch.explained(modality) else None

    def deletion(self, modality: Modality) -> Tensor | None:
        """Cosines along a deletion."""
        return self.batch.curve(modality, "deletion")[self.index].cpu() if self.batch.explained(modality) else None

    def randomised(self, modality: Modality) -> Tensor | None:
        """The map of a randomised model."""
        if not self.batch.explained(modality):
            return None
        return flat_map(self.batch.sanity.randomised(self.batch.batch)[self.index], modality)

    def nonsense(self, modality: Modality) -> Tensor | None:
        """The image map for a nonsense text."""
        if modality == "text" or not self.batch.explained(modality):
            return None
        return flat_map(self.batch.sanity.nonsense(self.batch.batch)[self.index], modality)

    def by_layer(self, modality: Modality) -> Tensor | None:
        """Spearman with the map of the model randomised down to each of `sanity.parts`, nan for a constant map."""
        if not self.batch.explained(modality):
            return None
        others = [some[self.index] for some in self.batch.sanity.cascade(self.batch.batch)]
        own = flat_map(self.attribution, modality)
        return torch.stack([spearman(own, flat_map(other, modality)) for other in others])

    def perturbed(self, modality: Modality) -> Tensor | None:
        """The maps of noisy images; a text cannot be changed a little."""
        if modality == "text" or not self.batch.explained(modality):
            return None
        others = self.batch.sanity.noisy(self.batch.batch)
        return torch.stack([flat_map(some[self.index], modality) for some in others])

    def predicted_falls(self, modality: Modality) -> Tensor | None:
        """Sums of the map over what random maskings hide."""
        return self.batch.fidelity(modality)[0][:, self.index].cpu() if self.batch.explained(modality) else None

    def falls(self, modality: Modality) -> Tensor | None:
        """How far the cosine falls under these maskings."""
        return self.batch.fidelity(modality)[1][:, self.index].cpu() if self.batch.explained(modality) else None


def known(value: Tensor) -> Tensor | None:
    """A value, or None for nan."""
    return None if value.isnan() else value.cpu()


def flat_map(attribution: Attribution, modality: Modality) -> Tensor:
    """The raw values of a map, special tokens left out, (n,)."""
    return torch.from_numpy(attribution.content_of(modality))


def spread(attribution: Attribution, size: tuple[int, ...]) -> Tensor:
    """The raw image map over a picture of (height, width), bilinear; 0 (or less) where the model saw nothing."""
    cells = torch.from_numpy(np.asarray(attribution.image_map))
    height, width = size
    left, top, right, bottom = (round(v * n) for v, n in zip(attribution.view, (width, height) * 2, strict=True))
    shown = (max(1, bottom - top), max(1, right - left))
    seen = rearrange(F.interpolate(rearrange(cells, "gh gw -> 1 1 gh gw"), shown, mode="bilinear"), "1 1 h w -> h w")
    whole = torch.full((height, width), min(0.0, float(cells.min())))
    inside = seen[max(0, -top) : height - top, max(0, -left) : width - left]
    whole[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]] = inside
    return whole


def spread_cells(cells: NDArray[np.float32], view: Box, size: tuple[int, ...]) -> Tensor:
    """The same with each patch's own value, (height, width)."""
    height, width = size
    across = (torch.arange(width) + 0.5) / width
    down = (torch.arange(height) + 0.5) / height
    column = ((across - view[0]) / (view[2] - view[0]) * cells.shape[1]).floor().long()
    row = ((down - view[1]) / (view[3] - view[1]) * cells.shape[0]).floor().long()
    seen = rearrange((row >= 0) & (row < cells.shape[0]), "h -> h 1") & (column >= 0) & (column < cells.shape[1])
    values = torch.from_numpy(np.asarray(cells))
    whole = values[row.clamp(0, cells.shape[0] - 1)][:, column.clamp(0, cells.shape[1] - 1)]
    return torch.where(seen, whole, min(0.0, float(cells.min())))


def touched(mask: NDArray[np.bool_], view: Box, grid: tuple[int, ...]) -> Tensor:
    """(gh, gw) bool, the patches that a mask (H, W) has a pixel in."""
    numbers = np.arange(1, grid[0] * grid[1] + 1, dtype=np.float32).reshape(grid)
    under = spread_cells(numbers, view, mask.shape)[torch.from_numpy(mask)]
    return torch.isin(torch.from_numpy(numbers), under)


def first_shown(maps: Tensor, content: Tensor, steps: int, seed: int) -> Tensor:
    """(s + 1, b, ...) of 0 and 1: the round(n s / steps) highest of n values at step s, equal ones at random.

    Args:
        maps: The values that are ranked, (b, ...).
        content: The values that take part, (b, ...) bool; the others are 1 always.
        steps: How many equal steps there are.
        seed: The order of equal values follows from it.
    """
    values, part = rearrange(maps, "b ... -> b (...)"), rearrange(content, "b ... -> b (...)")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.rand(values.shape[1], generator=generator).argsort().to(maps.device)
    ordered = values.masked_fill(~part, -torch.inf)[:, shuffled].argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(ordered)
    place[:, shuffled] = ordered.argsort(1)
    share = rearrange(torch.linspace(0, 1, steps + 1, device=maps.device), "s -> s 1 1")
    count = (share * reduce(part.long(), "b n -> b 1", "sum")).round()
    return ((place < count) | ~part).float().unflatten(-1, maps.shape[1:])


def blurred(pixels: Tensor) -> Tensor:
    """Pixels (b, c, h, w) through a Gaussian, edges reflected."""
    side, sigma = BLUR
    offsets = torch.arange(side, device=pixels.device, dtype=torch.float64) - side // 2
    kernel = (-(offsets**2) / (2 * sigma**2)).exp()
    kernel = repeat((kernel / kernel.sum()).to(pixels.dtype), "w -> c 1 1 w", c=pixels.shape[1])
    padded = F.pad(pixels, (side // 2,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel, groups=pixels.shape[1])
    return F.conv2d(rows, rearrange(kernel, "c 1 1 w -> c 1 w 1"), groups=pixels.shape[1])
