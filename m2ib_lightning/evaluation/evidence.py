"""Everything that metrics ask for about a batch of explained pairs; the only place where they cause forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation.released import first_rows, stripped_scores
from m2ib_lightning.evaluation.sanity import Sanity
from m2ib_lightning.evaluation.truth import true_tokens
from m2ib_lightning.methods.objective import Objective, objectives
from m2ib_lightning.metrics import spearman
from m2ib_lightning.types import Modality, PairBatch

BLUR = (11, 5.0)
"""Side and sigma of the Gaussian that an insertion starts from, as RISE has them."""


class Protocol(NamedTuple):
    """How inputs are masked. Every field goes into the tables' caption.

    Attributes:
        steps: Of an insertion or deletion.
        masks: Random maskings of which infidelity is the mean error.
        seed: Of those, and of the order of equal values.
        name: "corrected", or "as_released" for confidence drop and increase as the released scripts of M2IB compute
            them, see `released`; the other metrics are the same in both.
    """

    steps: int = 20
    masks: int = 32
    seed: int = 0
    name: Literal["corrected", "as_released"] = "corrected"

    def checked(self) -> Protocol:
        """Itself.

        Raises:
            ValueError: The name is none of the two.
        """
        if self.name not in ("corrected", "as_released"):
            raise ValueError(
                f"Expected a protocol named 'corrected' or 'as_released' but got {self.name!r}. Remedy: choose one."
            )
        return self

    @property
    def caption(self) -> str:
        """How tables name it: "protocol: corrected (steps=20, masks=32, seed=0)"."""
        numbers = ", ".join(f"{key}={value}" for key, value in self._asdict().items() if key != "name")
        return f"protocol: {self.name} ({numbers})"


class BatchEvidence:
    """The evidence of a batch of pairs, each kind computed for all of them when the first is asked for.

    Args:
        sanity: The method, and what it says of changed models and inputs.
        batch: The pairs.
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
        self._kept: dict[tuple[str, ...], Tensor] = {}

    def pairs(self) -> list[PairEvidence]:
        """The same, pair by pair, as metrics take it."""
        return [PairEvidence(self, index) for index in range(len(self.attributions))]

    def explained(self, modality: Modality) -> bool:
        """Whether the method made maps of a modality."""
        return getattr(self.attributions[0], f"{modality}_map") is not None

    @cached_property
    def objectives(self) -> dict[Modality, Objective]:
        """Cosine similarity as a function of each input."""
        return objectives(self.sanity.method.prepare(), self.batch)

    def masks(self, modality: Modality) -> Tensor:
        """The maps in [0, 1] at the size of the model's input: (B, H, W), or (B, L) with 0 for special tokens."""
        key = ("masks", modality)
        if key not in self._kept:
            maps = self.maps(modality).clamp(min=0)
            top = maps.flatten(1).amax(1).clamp(min=torch.finfo(maps.dtype).tiny)
            self._kept[key] = maps / top.view(-1, *[1] * (maps.ndim - 1))
        return self._kept[key]

    def maps(self, modality: Modality) -> Tensor:
        """The raw maps at the size of the model's input: (B, H, W), or (B, L) with 0 for special tokens."""
        objective = self.objectives[modality]
        if modality == "image":
            cells = torch.from_numpy(np.stack([a.image_map for a in self.attributions if a.image_map is not None]))
            size = self.batch.pixel_values.shape[-2:]
            return F.interpolate(cells[:, None], size, mode="bilinear")[:, 0].to(objective.inputs.device)
        values = torch.zeros(objective.content.shape)
        for row, a in zip(values, self.attributions, strict=True):
            row[: len(a.tokens)] = torch.from_numpy(np.asarray(a.text_map))
        return values.to(objective.inputs.device) * objective.content

    def masked_scores(self, modality: Modality) -> Tensor:
        """(B,) cosines with the input multiplied by its map."""
        key = ("masked", modality)
        if key not in self._kept:
            objective = self.objectives[modality]
            if self.protocol.name == "corrected":
                self._kept[key] = objective.masked(self.masks(modality)[None])[0]
            elif modality == "image":
                self._kept[key] = objective.masked(first_rows(self.maps("image"))[None])[0]
            else:
                self._kept["clean", "text"], self._kept[key] = stripped_scores(objective, self.maps("text"))
        return self._kept[key]

    def clean_scores(self, modality: Modality) -> Tensor:
        """(B,) cosines that those of masked inputs of a modality are compared with."""
        if self.protocol.name == "as_released" and modality == "text":
            self.masked_scores("text")
            return self._kept["clean", "text"]
        return self.objectives[modality].clean

    def curves(self, modality: Modality, kind: str) -> Tensor:
        """(B, steps + 1) cosines along an insertion into a blurred image (a text of no tokens), or a deletion."""
        key = ("curve", modality, kind)
        if key not in self._kept:
            objective = self.objectives[modality]
            content = objective.content if modality == "text" else torch.ones_like(self.masks(modality)).bool()
            shown = first_shown(self.maps(modality), content, self.protocol.steps, self.protocol.seed)
            if kind == "deletion":
                scores = objective.masked(1 - shown)
            else:
                scores = objective.masked(shown, blurred(objective.inputs) if modality == "image" else None)
            self._kept[key] = scores.T
        return self._kept[key]

    def fidelity(self, modality: Modality) -> tuple[Tensor, Tensor]:
        """(K, B) twice: the sum of the map over what a random masking hides, and how far the cosine falls."""
        objective = self.objectives[modality]
        generator = torch.Generator().manual_seed(self.protocol.seed)
        shape = objective.grid or (objective.tower.length,)
        keep = (torch.rand(self.protocol.masks, 1, *shape, generator=generator) < 0.5).float()
        keep = keep.to(objective.inputs.device)
        if modality == "text":
            keep, cells = keep[..., : objective.inputs.shape[1]], self.maps("text")
        else:
            cells = torch.from_numpy(np.stack([a.image_map for a in self.attributions if a.image_map is not None]))
            cells = cells.to(keep.device)
        predicted = ((1 - keep) * cells).flatten(2).sum(-1)
        return predicted, objective.clean - objective.masked(keep)


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

    def heatmap(self) -> Tensor | None:
        """The image map in [0, 1]."""
        raw = self.saliency("image")
        return None if raw is None else raw.clamp(min=0) / raw.amax().clamp(min=torch.finfo(raw.dtype).tiny)

    def truth(self, modality: Modality) -> Tensor | None:
        """What should be found."""
        if modality == "image":
            return None if self.known.mask is None else torch.from_numpy(np.array(self.known.mask))
        spans = self.known.spans
        return None if spans is None else torch.from_numpy(true_tokens(self.attribution, spans))

    def content(self) -> Tensor:
        """Tokens without special ones."""
        return torch.from_numpy(~self.attribution.special)

    def score(self, modality: Modality) -> Tensor | None:
        """Cosine of the clean pair, as the protocol reads its text."""
        return known(self.batch.clean_scores(modality)[self.index]) if self.batch.explained(modality) else None

    def masked_score(self, modality: Modality) -> Tensor | None:
        """Cosine with the input multiplied by its map."""
        return known(self.batch.masked_scores(modality)[self.index]) if self.batch.explained(modality) else None

    def curve(self, modality: Modality, kind: str) -> Tensor | None:
        """Cosines along an insertion or deletion."""
        return self.batch.curves(modality, kind)[self.index].cpu() if self.batch.explained(modality) else None

    def other_map(self, modality: Modality, kind: str) -> tuple[Tensor, Tensor] | None:
        """The map and that of a randomised model or of a nonsense text."""
        if not self.batch.explained(modality) or (kind == "nonsense" and modality == "text"):
            return None
        other = self.batch.sanity.maps(self.batch.batch, kind)[self.index]
        return flat_map(self.attribution, modality), flat_map(other, modality)

    def layers(self, modality: Modality) -> list[float] | None:
        """Spearman with the map of the model randomised down to each of `sanity.parts`, nan for a constant map."""
        if not self.batch.explained(modality):
            return None
        others = [some[self.index] for some in self.batch.sanity.cascade(self.batch.batch)]
        own = flat_map(self.attribution, modality)
        return [float(spearman(own, flat_map(other, modality))) for other in others]

    def perturbed(self, modality: Modality) -> tuple[Tensor, Tensor] | None:
        """The map and those of noisy images; a text cannot be changed a little."""
        if modality == "text" or not self.batch.explained(modality):
            return None
        others = self.batch.sanity.noisy(self.batch.batch)
        rows = torch.stack([flat_map(some[self.index], modality) for some in others])
        return flat_map(self.attribution, modality), rows

    def fidelity(self, modality: Modality) -> tuple[Tensor, Tensor] | None:
        """Predicted and actual falls."""
        if not self.batch.explained(modality):
            return None
        predicted, actual = self.batch.fidelity(modality)
        return predicted[:, self.index].cpu(), actual[:, self.index].cpu()


def known(value: Tensor) -> Tensor | None:
    """A value, or None for nan."""
    return None if value.isnan() else value.cpu()


def flat_map(attribution: Attribution, modality: Modality) -> Tensor:
    """The raw values of a map, special tokens left out, (N,)."""
    if modality == "image":
        return torch.from_numpy(np.asarray(attribution.image_map)).flatten()
    return torch.from_numpy(np.asarray(attribution.text_map)[~attribution.special])


def spread(attribution: Attribution, size: tuple[int, ...]) -> Tensor:
    """The raw image map over a picture of (height, width), bilinear; 0 (or less) where the model saw nothing."""
    cells = torch.from_numpy(np.asarray(attribution.image_map))
    height, width = size
    left, top, right, bottom = (round(v * n) for v, n in zip(attribution.view, (width, height) * 2, strict=True))
    seen = F.interpolate(cells[None, None], (max(1, bottom - top), max(1, right - left)), mode="bilinear")[0, 0]
    whole = torch.full((height, width), min(0.0, float(cells.min())))
    inside = seen[max(0, -top) : height - top, max(0, -left) : width - left]
    whole[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]] = inside
    return whole


def first_shown(maps: Tensor, content: Tensor, steps: int, seed: int) -> Tensor:
    """(steps + 1, B, ...) of 0 and 1: the round(n s / steps) highest of n values at step s, equal ones at random.

    Args:
        maps: (B, ...).
        content: (B, ...) bool, the values that take part; the others are 1 always.
        steps: So many equal ones.
        seed: Of the order of equal values.
    """
    values, part = maps.flatten(1), content.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.rand(values.shape[1], generator=generator).argsort().to(maps.device)
    ordered = values.masked_fill(~part, -torch.inf)[:, shuffled].argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(ordered)
    place[:, shuffled] = ordered.argsort(1)
    share = torch.linspace(0, 1, steps + 1, device=maps.device)[:, None]
    count = (share * part.sum(1)).round()[..., None]
    return ((place < count) | ~part).float().unflatten(-1, maps.shape[1:])


def blurred(pixels: Tensor) -> Tensor:
    """Pixels (B, C, H, W) through a Gaussian, edges reflected."""
    side, sigma = BLUR
    offsets = torch.arange(side, device=pixels.device, dtype=torch.float64) - side // 2
    kernel = (-(offsets**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).to(pixels.dtype).expand(pixels.shape[1], 1, 1, side)
    padded = F.pad(pixels, (side // 2,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel, groups=pixels.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=pixels.shape[1])
