"""Layers and betas for a user's own model and pairs, chosen without any ground truth.

A bottleneck trades relevance (the cosine that is left) for compression (the nats that are let through). Where even an
open trade-off leaves much less than the clean cosine, the layer cannot work: what the model needs does not go through
what is masked. Of the layers and betas at which the model still agrees, the one whose map is gathered on the fewest
tokens says most precisely what the model needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from einops import reduce
from torch import Tensor

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.bottleneck import ReadOut
from m2ib_lightning.data.images import ImageLike
from m2ib_lightning.data.pairs import check_all, make_references, read_pair
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.types import Layer, Modality, PairBatch

if TYPE_CHECKING:
    import pandas as pd

BETAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Half decades around the betas that did well on models tried."""

AGREEMENT = 0.9
"""Share of the clean cosine that must be left through a bottleneck for the model to count as agreeing."""

MOST_LAYERS = 6
"""Layers of a tower that are tried unless the user says which."""


class CurvePoint(NamedTuple):
    """What one bottleneck does to the pairs, mean over them.

    Attributes:
        modality: Of the tower.
        layer: Where the bottleneck sits.
        beta: What a nat of compression costs, > 0.
        nats: That all tokens of a pair let through together, >= 0.
        tokens: How many patches or words the map is gathered on: the exponential of the entropy, in nats, of its
            values as shares of their sum. 1 for a single one, their number for an even map.
        relevance: Cosine with this tower read through its bottleneck, in -1..1.
        clean: Cosine of the clean pairs, in -1..1.
    """

    modality: Modality
    layer: Layer
    beta: float
    nats: float
    tokens: float
    relevance: float
    clean: float

    @property
    def agrees(self) -> bool:
        """Whether the model still does through the bottleneck; no model agrees with pairs of a cosine of 0 or less."""
        return self.clean > 0 and self.relevance >= AGREEMENT * self.clean


def measure_curves(
    method: M2IB, batches: Sequence[PairBatch], modality: Modality, betas: Sequence[float]
) -> list[CurvePoint]:
    """Relevance and compression of one layer at each beta; the part of the model before it is run once a batch.

    Args:
        method: With this modality alone, at the layer.
        batches: The pairs.
        modality: The tower.
        betas: Increasing.
    """
    method.prepare()
    layer = method.towers[modality].layer
    found: dict[float, list[np.ndarray]] = {beta: [] for beta in betas}
    for batch in batches:
        fit = method.new_fit(batch)
        for beta in betas:
            fit.restart()
            fit.towers[modality] = fit.towers[modality]._replace(beta=beta)
            found[beta].append(_run(method, fit, modality))
    means = {beta: np.concatenate(rows).mean(0).tolist() for beta, rows in found.items()}
    return [CurvePoint(modality, layer, beta, *means[beta]) for beta in betas]


def _run(method: M2IB, fit: MaskFit, modality: Modality) -> np.ndarray:
    """(B, 4): nats, tokens, relevance and clean cosine of each pair at the end of its fit."""
    optimizer = method.new_optimizer(fit.parameters())
    for _ in range(method.steps):
        fit.step(optimizer)
    per_token = reduce(fit.bottleneck(modality).capacity().detach(), "b l d -> b l", "sum")
    content = per_token * ~fit.hidden[modality].special
    nats = reduce(per_token, "b l -> b", "sum")
    columns = (nats, gathered_on(content), fit.history[-1][f"{modality}/relevance"], fit.score)
    return np.stack([column.float().cpu().numpy() for column in columns], 1)


def gathered_on(maps: Tensor) -> Tensor:
    """How many of the values of each map (B, L) >= 0 hold its sum, (B,) in 1..L: exp of the entropy of their shares.

    >>> import torch
    >>> gathered_on(torch.tensor([[2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([1., 4.])
    """
    shares = maps / maps.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.special.entr(shares).sum(1).exp()


def choose(points: Sequence[CurvePoint]) -> CurvePoint:
    """The point of one tower whose map is gathered on the fewest tokens while the model agrees.

    If it agrees at none, the one that leaves the most relevance.
    """
    agreeing = [point for point in points if point.agrees]
    return min(agreeing, key=lambda p: p.tokens) if agreeing else max(points, key=lambda p: p.relevance)


@dataclass(frozen=True)
class Suggestion:
    """What `suggest_settings` found.

    Attributes:
        arguments: Ready for `M2IB(**suggestion.arguments)` and `explain(..., **suggestion.arguments)`.
        works: By modality, whether the model still agrees with the pair through the suggested bottleneck. If not, no
            layer that was tried lets through what the model needs, and its maps should not be believed.
        points: Everything that was measured.
    """

    arguments: dict[str, Any]
    works: dict[Modality, bool]
    points: tuple[CurvePoint, ...]

    def frame(self) -> pd.DataFrame:
        """A row per point: modality, layer, beta, nats, tokens, relevance, clean."""
        import pandas as pd

        return pd.DataFrame(self.points)

    def __str__(self) -> str:
        """The suggestion of each tower above its curves, a line per layer and a column per beta."""
        return "\n\n".join("\n".join(self._tower(modality)) for modality in self.works)

    def _tower(self, modality: Modality) -> list[str]:
        points = [point for point in self.points if point.modality == modality]
        layer, beta = self.arguments[f"{modality}_layer"], self.arguments[f"{modality}_beta"]
        verdict = "" if self.works[modality] else "; NO LAYER LETS THROUGH WHAT THE MODEL NEEDS"
        betas = list(dict.fromkeys(point.beta for point in points))
        lines = [
            f"{modality}_layer {layer}, {modality}_beta {beta:g}{verdict}",
            f"similarity through the bottleneck (clean: {points[0].clean:.2f}) / tokens that the map is gathered on",
            f"{'beta':<12}" + "".join(f"{beta:>14g}" for beta in betas),
        ]
        for one in dict.fromkeys(point.layer for point in points):
            cells = "".join(self._cell(point, (layer, beta)) for point in points if point.layer == one)
            lines.append(f"{one:<12}{cells}")
        return lines

    @staticmethod
    def _cell(point: CurvePoint, chosen: tuple[Layer, float]) -> str:
        mark = "* " if (point.layer, point.beta) == chosen else ""
        return f"{f'{mark}{point.relevance:.2f} / {point.tokens:.1f}':>14}"


def suggest_settings(
    images: ImageLike | Sequence[ImageLike],
    texts: str | Sequence[str],
    backbone: str | Backbone = "embedded",
    layers: Mapping[Modality, Sequence[Layer]] | None = None,
    betas: Sequence[float] = BETAS,
    batch_size: int = 8,
    steps: int = 10,
    noise_samples: int = 2,
    prior: str = "measured",
    read_out: ReadOut = "mean",
    seed: int = 0,
) -> Suggestion:
    """Layers and betas that suit a model and pairs, from the pairs alone.

    Every layer is tried with every beta. Where at least nine tenths of the clean cosine are left through the
    bottleneck, the model still agrees; of those, the one whose maps are gathered on the fewest patches or words is
    suggested. It costs as much as explaining the pairs once for each layer and beta, with few noise samples.

    Args:
        images: Pictures or paths; a single one goes with every text.
        texts: As many texts; a single one goes with every image.
        backbone: A loaded model, or what `load_backbone` takes.
        layers: Of each modality to be suggested for, the layers to try; by default the embeddings and blocks spread
            over the depth, of both.
        betas: To try, all > 0, two or more.
        batch_size: Pairs computed at once; changes the speed and nothing else.
        steps: Of each fit, >= 1; use the number that you will explain with.
        noise_samples: Of each step, half of them the others negated.
        prior: "measured" or "unit", as of `M2IB`.
        read_out: As of `M2IB`.
        seed: Of the noise.

    Raises:
        ValueError: An argument or an input is not usable; said before anything is computed.

    Example:
        >>> from m2ib_lightning.data import make_scene
        >>> scenes = [make_scene(seed) for seed in (1, 2)]
        >>> images, texts = [scene.image for scene in scenes], [scene.caption for scene in scenes]
        >>> found = suggest_settings(images, texts, layers={"text": ["embeddings", 1]}, betas=(0.1, 1))
        >>> found.arguments["text_layer"], found.works
        ('embeddings', {'text': True})
    """
    betas = _check(betas, batch_size, prior)
    references = make_references(images, texts)
    check_all(references)
    model = load_backbone(backbone) if isinstance(backbone, str) else backbone
    tried = _layers(model, layers)
    shared: dict[str, Any] = {"prior": prior, "read_out": read_out}
    cost: dict[str, Any] = {
        "steps": steps,
        "noise_samples": noise_samples,
        "antithetic": True,
        "tolerance": None,
        "seed": seed,
    }
    methods = {
        (modality, layer): M2IB(model, [modality], **shared, **cost, **_at(modality, layer))
        for modality, some in tried.items()
        for layer in some
    }
    pairs = [read_pair(reference) for reference in references]
    batches = [model.preprocess_pairs(pairs[start : start + batch_size]) for start in range(0, len(pairs), batch_size)]
    points = [
        point for (modality, _), method in methods.items() for point in measure_curves(method, batches, modality, betas)
    ]
    return suggestion(points, shared)


def _at(modality: Modality, layer: Layer) -> dict[str, Any]:
    return {f"{modality}_layer": layer}


def suggestion(points: Sequence[CurvePoint], shared: Mapping[str, Any]) -> Suggestion:
    """What follows from points of one or both towers.

    Args:
        points: Of every layer and beta that was tried.
        shared: Arguments of `M2IB` that they were measured with and that are to be kept.
    """
    modalities = list(dict.fromkeys(point.modality for point in points))
    best = {m: choose([point for point in points if point.modality == m]) for m in modalities}
    arguments: dict[str, Any] = {}
    for modality, point in best.items():
        arguments |= {f"{modality}_layer": point.layer, f"{modality}_beta": point.beta}
    return Suggestion(arguments | dict(shared), {m: p.agrees for m, p in best.items()}, tuple(points))


def _check(betas: Sequence[float], batch_size: int, prior: str) -> list[float]:
    """The betas in order, once each."""
    if batch_size < 1:
        raise ValueError(f"Expected `batch_size` to be at least 1 but got {batch_size}. Remedy: choose a larger one.")
    if prior not in ("measured", "unit"):
        raise ValueError(
            f"Expected `prior` to be 'measured' or 'unit' but got {prior!r}, and a file is of one layer. "
            "Remedy: choose one of those."
        )
    if len(set(betas)) < 2 or not all(math.isfinite(beta) and beta > 0 for beta in betas):
        raise ValueError(
            f"Expected `betas` to be two or more numbers above 0 but got {tuple(betas)}. "
            "Remedy: for example (0.1, 0.3, 1, 3, 10)."
        )
    return sorted({float(beta) for beta in betas})


def _layers(backbone: Backbone, layers: Mapping[Modality, Sequence[Layer]] | None) -> dict[Modality, list[Layer]]:
    """The layers to try of each modality, checked."""
    chosen: Mapping[Modality, Sequence[Layer]] = (
        layers
        if layers is not None
        else {"image": spread_layers(backbone.image.depth), "text": spread_layers(backbone.text.depth)}
    )
    if not chosen or not set(chosen) <= {"image", "text"} or not all(chosen.values()):
        raise ValueError(
            f"Expected `layers` to name layers of 'image', 'text' or both but got {dict(chosen)}. "
            "Remedy: for example {'image': ['embeddings', 2, 4]}, or leave it out."
        )
    for modality, some in chosen.items():
        for layer in some:
            backbone.tower(modality).check_layer(layer, f"{modality}_layer")
    return {modality: list(dict.fromkeys(some)) for modality, some in chosen.items()}


def spread_layers(depth: int) -> list[Layer]:
    """The embeddings and at most five blocks, evenly over those that a bottleneck may sit after.

    >>> spread_layers(12)
    ['embeddings', 0, 2, 5, 8, 10]
    >>> spread_layers(4)
    ['embeddings', 0, 1, 2]
    """
    blocks = np.linspace(0, depth - 2, min(MOST_LAYERS - 1, depth - 1)).round().astype(int)
    return ["embeddings", *blocks.tolist()]
