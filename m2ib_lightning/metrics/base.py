"""The contract of a metric: a pure function that gives one value per pair, and a class that only holds the values.

A metric receives scores and maps, never a model. Of a pair for which it says nothing (no truth, for example) the value
is nan: the pair is left out of the mean, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from m2ib_lightning.contracts import ContractError, called, check_metric
from m2ib_lightning.names import meant
from m2ib_lightning.types import Modality


class Evidence(Protocol):
    """What is known of one explained pair. Each is made when a metric asks for it, and then kept.

    None stands for what the pair does not have: a modality that was not explained, a truth that nobody gave.
    """

    def saliency(self, modality: Modality) -> Tensor | None:
        """The raw map: (h, w) of the image at the size of its truth, (l,) of the text."""

    def heatmap(self, modality: Modality) -> Tensor | None:
        """The image map in [0, 1], (h, w), negative values at 0 and the largest at 1; a text has none."""

    def values(self, modality: Modality) -> Tensor | None:
        """The raw map as the method gave it, special tokens left out, (n,)."""

    def truth(self, modality: Modality) -> Tensor | None:
        """What should be found, (h, w) or (l,) bool."""

    def phrase_maps(self, modality: Modality) -> Tensor | None:
        """The raw maps of the P phrases whose truth is known, each patch with its own value, (p, h, w)."""

    def phrase_truths(self, modality: Modality) -> Tensor | None:
        """What each of these phrases names, (p, h, w) bool."""

    def phrase_patches(self, modality: Modality) -> Tensor | None:
        """The raw maps of these phrases as the method gave them, a value per patch, (p, gh, gw)."""

    def phrase_touched(self, modality: Modality) -> Tensor | None:
        """The patches with a pixel of what each of these phrases names, (p, gh, gw) bool."""

    def phrase_others(self, modality: Modality) -> Tensor | None:
        """What each of them must be told from: the rest that is named, and the likes of it, (p, h, w) bool."""

    def region_maps(self, modality: Modality) -> Tensor | None:
        """The raw values of the tokens for the R regions whose words are known, (r, l)."""

    def region_truths(self, modality: Modality) -> Tensor | None:
        """The tokens that name what each of these regions shows, (r, l) bool."""

    def content(self, modality: Modality) -> Tensor | None:
        """Which tokens of the text are no special ones, (l,) bool; an image has none."""

    def words(self, modality: Modality) -> Tensor | None:
        """The text map by words, (w,): the mean of each word's tokens, so that being split raises none."""

    def named(self, modality: Modality) -> Tensor | None:
        """Which words should be found, (w,) bool."""

    def score(self, modality: Modality) -> Tensor | None:
        """Cosine similarity of the clean pair, which `masked_score` of this modality is compared with, ()."""

    def masked_score(self, modality: Modality) -> Tensor | None:
        """Cosine similarity with the input multiplied by its map in [0, 1], ()."""

    def insertion(self, modality: Modality) -> Tensor | None:
        """Cosine similarities while the most relevant parts are put into a blurred or empty input, (s + 1,)."""

    def deletion(self, modality: Modality) -> Tensor | None:
        """Cosine similarities while the most relevant parts are taken out of the input, (s + 1,)."""

    def randomised(self, modality: Modality) -> Tensor | None:
        """What `values` are for a model with random weights, (n,)."""

    def nonsense(self, modality: Modality) -> Tensor | None:
        """What `values` of the image are for an unrelated text, (n,)."""

    def by_layer(self, modality: Modality) -> Tensor | None:
        """Spearman of `values` and those of models randomised from the top down to each part, (parts,)."""

    def perturbed(self, modality: Modality) -> Tensor | None:
        """What `values` are for slightly different images, (k, n)."""

    def predicted_falls(self, modality: Modality) -> Tensor | None:
        """Sums of the map over what random maskings hide, (k,)."""

    def falls(self, modality: Modality) -> Tensor | None:
        """How far the cosine similarity falls under these maskings, (k,)."""


class PairMetric(Metric):
    """Holds one value per pair; `compute` is their mean, nan where there is none.

    A further metric is one class in one file that names a pure function and what of a pair the function takes.

    Args:
        modality: Whose map is scored, where the metric is for both.

    Attributes:
        function: The pure function: tensors to one value per pair, nan for a pair to leave out.
        takes: What the function takes, in order, each by its name in `Evidence`.
        keeps: What is written beside the value, a list for each pair, by its name in `Evidence`.
        unit: What the value is measured in, "" for a share.
        bounds: The smallest and the largest value possible.
        higher_is_better: Whether a larger value speaks for a map.
    """

    function: ClassVar[Callable[..., Tensor]]
    takes: ClassVar[tuple[str, ...]]
    keeps: tuple[str, ...] = ()
    unit: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    higher_is_better = True
    full_state_update = False
    modality: Modality = "image"
    per_pair: list[Tensor]

    def __init__(self, modality: Modality | None = None) -> None:
        super().__init__()
        unknown = [part for part in (*self.takes, *self.keeps) if not callable(getattr(Evidence, part, None))]
        if unknown:
            known = [part for part in vars(Evidence) if part[0] != "_"]
            raise ContractError(
                f"Expected {type(self).__name__} to take parts of Evidence but got {unknown[0]!r}. "
                f"Remedy: {meant(unknown[0], known, 'choose from ' + ', '.join(known) + '.')}"
            )
        self.modality = modality or type(self).modality
        self.add_state("per_pair", default=[], dist_reduce_fx="cat")

    @property
    def name(self) -> str:
        """How it is listed: "image/PointingGame"."""
        return f"{self.modality}/{type(self).__name__}"

    def inputs(self, evidence: Evidence) -> tuple[Tensor, ...] | None:
        """What the function takes of a pair, or None if the pair does not have all of it."""
        found: list[Tensor] = []
        for name in self.takes:
            part = getattr(evidence, name)(self.modality)
            if part is None:
                return None
            found.append(part)
        return tuple(found)

    def kept(self, evidence: Evidence) -> dict[str, list[float] | None]:
        """What is written of a pair beside its value: "image/insertion", for example."""
        found = {name: getattr(evidence, name)(self.modality) for name in self.keeps}
        return {f"{self.modality}/{name}": None if of is None else of.tolist() for name, of in found.items()}

    def values_of(self, *inputs: Tensor) -> Tensor:
        """The function's value for each pair, (pairs,) or ()."""
        return type(self).function(*inputs)

    def update(self, *inputs: Tensor) -> None:
        """Keep the values of one or several pairs."""
        self.per_pair.append(check_metric(self, called(self, self.values_of, *inputs)))

    @torch.no_grad()
    def observe(self, evidence: Evidence) -> float:
        """Keep and return the value of a pair, nan if it lacks what the metric needs."""
        inputs = self.inputs(evidence)
        if inputs is None:
            self.per_pair.append(torch.full((1,), float("nan")))
        else:
            self.update(*inputs)
            check_metric(self, self.per_pair[-1], one=True)
        return float(self.per_pair[-1][0])

    @property
    def values(self) -> Tensor:
        """Every value kept, nan for pairs left out, (pairs,)."""
        kept = self.per_pair
        return torch.cat(list(kept)) if isinstance(kept, list) and kept else torch.as_tensor(kept).reshape(-1).float()

    @property
    def left_out(self) -> int:
        """How many pairs have no value."""
        return int(self.values.isnan().sum())

    def compute(self) -> Tensor:
        """Mean over the pairs that have a value."""
        return self.values.nanmean()


def check_map(saliency: Tensor, truth: Tensor | None = None) -> None:
    """Refuse a map that is not finite or not of the truth's shape.

    Raises:
        ValueError: It is one of these.
    """
    if not torch.isfinite(saliency).all():
        raise ValueError("Expected a finite map but it holds nan or inf. Remedy: look for the pair that gave it.")
    if truth is not None and saliency.shape != truth.shape:
        raise ValueError(
            f"Expected map and truth of one shape but got {tuple(saliency.shape)} and {tuple(truth.shape)}. "
            "Remedy: bring the map to the size of the truth."
        )


def left_out(values: Tensor, without: Tensor) -> Tensor:
    """The values, nan for the pairs `without` what it takes."""
    return values.masked_fill(without, float("nan"))
