"""Priors, layers and betas that suit a model, from pairs of its user and without any ground truth.

A map is faithful where hiding what it shows costs the model its similarity. That is measured apart from any
bottleneck: windows of the picture and words of the text are hidden one after the other (`Occlusion`), once for each
pair. It is worth nothing where the bottleneck has switched the model off, so it is weighed by the similarity that is
left.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.data.composed import Scenes
from m2ib_lightning.data.images import ImageLike
from m2ib_lightning.data.pairs import GivenPairs, Reference, list_pairs, read_pair
from m2ib_lightning.files import replacing
from m2ib_lightning.methods import M2IB, Occlusion
from m2ib_lightning.methods.priors import default_layer, measure_over
from m2ib_lightning.prior import Prior, read_priors, write_priors
from m2ib_lightning.types import Layer, Modality, PairBatch

BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Half decades around the betas that did well on models tried."""

WORKS = 0.1
"""What a point must be worth for its maps to show what the model uses."""

FEWEST, MOST = 8, 64
"""Pairs that a calibration is made from: fewer say little of others, more change nothing."""

BLOCKS = 5
"""Blocks of a tower that are tried, beside its embeddings and the default layer, unless the user says which."""

CONFIGURATION, PRIORS, GRID = "calibration.yaml", "priors.safetensors", "grid.csv"
"""The files of a calibration's folder."""


class GridPoint(NamedTuple):
    """What one layer and beta does to the pairs.

    Attributes:
        modality: Which tower it is of.
        layer: Where the bottleneck sits.
        beta: What a nat of compression costs, > 0.
        left: Share of the clean similarity that is left through the bottleneck; above 1 where it rises.
        faithfulness: How far the similarity falls when a patch or word drawn from the map is hidden: 0 as for an even
            map, 1 as for the patch or word of each pair that costs most.
    """

    modality: Modality
    layer: Layer
    beta: float
    left: float
    faithfulness: float

    @property
    def worth(self) -> float:
        """What is chosen by: faithfulness times the share of the similarity that is left, at most all of it."""
        return self.faithfulness * float(np.clip(self.left, 0, 1))


@dataclass(frozen=True)
class Calibration:
    """Layers, betas and priors for one model.

    Attributes:
        backbone: What the model was called.
        weights: The hash of its weights; the priors are refused with another model.
        pairs: How many pairs it was measured on.
        chosen: The point of each tower.
        priors: Mean and deviation over the pairs of the hidden states at the chosen layers.
        grid: Everything that was measured.
    """

    backbone: str
    weights: str
    pairs: int
    chosen: Mapping[Modality, GridPoint]
    priors: Mapping[Modality, Prior]
    grid: tuple[GridPoint, ...]

    def __str__(self) -> str:
        """A line for each tower."""
        return "\n".join(
            f"{m}_layer {p.layer}, {m}_beta {p.beta:g}: faithfulness {p.faithfulness:.2f}, similarity left {p.left:.0%}"
            + ("" if p.worth >= WORKS else "; NO LAYER SHOWS WHAT THE MODEL USES, do not believe its maps")
            for m, p in self.chosen.items()
        )

    def save(self, folder: str | Path) -> dict[str, Any]:
        """Write the folder: `calibration.yaml` for `--config`, `priors.safetensors` and `grid.csv`.

        Returns:
            Arguments for `M2IB(backbone, **arguments)`; they name the file of priors.

        Raises:
            OSError: The folder cannot be written.
        """
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        layers = {f"{m}_layer": str(point.layer) for m, point in self.chosen.items()}
        said = {"weights": self.weights, "pairs": str(self.pairs), **layers}
        write_priors(folder / PRIORS, {str(m): prior for m, prior in self.priors.items()}, **said)
        with replacing(folder / GRID) as unfinished, unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([GridPoint._fields, *self.grid])
        arguments: dict[str, Any] = {"modalities": list(self.chosen), "prior": str(folder / PRIORS)}
        for modality, point in self.chosen.items():
            arguments |= {f"{modality}_layer": point.layer, f"{modality}_beta": point.beta}
        model = {"class_path": "m2ib_lightning.M2IB", "init_args": {"backbone": self.backbone, **arguments}}
        with replacing(folder / CONFIGURATION) as unfinished:
            unfinished.write_text(yaml.safe_dump({"model": model}, sort_keys=False), "utf-8")
        return arguments

    @staticmethod
    def arguments(folder: str | Path) -> dict[str, Any]:
        """What `save` gave for this folder, wherever it is now.

        Raises:
            ValueError: There is no such folder, or it is none of ours.
        """
        made = _configured(folder) | {"prior": str(Path(folder).absolute() / PRIORS)}
        return {name: value for name, value in made.items() if name != "backbone"}

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """What `save` has written.

        Raises:
            ValueError: There is no such folder, or a file of it is missing or damaged.
        """
        made = _configured(folder)
        priors, said = read_priors(Path(folder) / PRIORS)
        try:
            with (Path(folder) / GRID).open(newline="") as file:
                grid = tuple(_as_point(row) for row in csv.DictReader(file))
            at = {(m, made[f"{m}_layer"], float(made[f"{m}_beta"])) for m in made["modalities"]}
            chosen = {point.modality: point for point in grid if point[:3] in at}
            kept = {m: priors[m] for m in chosen}
            return cls(made["backbone"], said["weights"], int(said["pairs"]), chosen, kept, grid)
        except (OSError, KeyError, TypeError, ValueError) as problem:
            raise _not_ours(folder, problem) from problem


def calibrate(
    pairs: PairDataModule | Sequence[tuple[ImageLike, str]],
    backbone: str | Backbone = "embedded",
    image_layers: list[int | Literal["embeddings"]] | None = None,
    text_layers: list[int | Literal["embeddings"]] | None = None,
    betas: Sequence[float] = BETAS,
    count: int = 32,
    steps: int = 10,
    noise_samples: int = 2,
    seed: int = 0,
    batch_size: int = 8,
    progress: Callable[[str], object] = lambda doing: None,
) -> Calibration:
    """Find the layers, betas and priors that suit a model, from 8 to 64 pairs.

    Every layer is tried with every beta. Of each tower the point is chosen whose maps are most faithful, weighed by
    the similarity that is left, or the default if it is not clearly better than that. It costs as much as explaining
    the pairs once for each layer and beta, with few noise samples.

    Args:
        pairs: Pictures or paths with their texts, or a data module.
        backbone: A loaded model, or what `load_backbone` takes.
        image_layers: The layers that are tried, "embeddings" or blocks from 0; the embeddings, the default and blocks
            spread over the depth by default. An empty list leaves the images out.
        text_layers: The layers of the text that are tried, likewise.
        betas: The betas that are tried at each layer, all > 0.
        count: So many of the pairs are used, spread over all of them; 8 to 64.
        steps: How many steps each fit makes, >= 1; use the number that you will explain with.
        noise_samples: How many samples of noise a step draws, half of them the others negated.
        seed: The noise follows from it.
        batch_size: Pairs computed at once; changes the speed and nothing else.
        progress: Told what is being done.

    Raises:
        ValueError: There are fewer than 8 pairs, or an argument or a pair is not usable.

    Example:
        >>> from m2ib_lightning.data import make_scene
        >>> scenes = [make_scene(seed) for seed in range(8)]
        >>> found = calibrate([(s.image, s.text) for s in scenes], image_layers=[], text_layers=["embeddings", 1])
        >>> found.chosen["text"].layer
        'embeddings'
    """
    betas = _checked_betas(betas)
    references = _spread(pairs, count)
    model = load_backbone(backbone) if isinstance(backbone, str) else backbone
    asked: dict[Modality, Sequence[Layer] | None] = {"image": image_layers, "text": text_layers}
    layers = {m: _layers(model, m, some) for m, some in asked.items() if some is None or len(some)}
    if not layers:
        raise ValueError("Expected layers of the image or the text but got none. Remedy: leave one of the lists out.")
    read = [read_pair(reference, truth=False) for reference in references]
    batches = [model.preprocess_pairs(read[i : i + batch_size]) for i in range(0, len(read), batch_size)]
    progress("Hiding parts of the inputs")
    hidden = [a for batch in batches for a in Occlusion(model, list(layers)).attribute(batch)]
    rows: dict[tuple[Modality, Layer, float], np.ndarray] = {}
    priors: dict[tuple[Modality, Layer], Prior] = {}
    usual: dict[Modality, tuple[Modality, Layer, float]] = {}
    fit: dict[str, Any] = {"steps": steps, "noise_samples": noise_samples, "seed": seed, "tolerance": None}
    for modality, some in layers.items():
        for layer in some:
            progress(f"{modality}: {layer} of {', '.join(map(str, some))}")
            priors[modality, layer] = measure_over(model, batches, {modality: layer})[modality]
            method = M2IB(model, [modality], **fit | {f"{modality}_layer": layer})
            method.prepare({modality: priors[modality, layer]})
            for beta, found in _explained(method, modality, batches, betas).items():
                rows[modality, layer, beta] = _rows(modality, found, hidden)
        usual[modality] = (
            modality,
            default_layer(modality, model.tower(modality).depth, "measured"),
            method.betas[modality],
        )
    grid = tuple(GridPoint(*at, *map(float, shares(of.sum(0)))) for at, of in rows.items())
    chosen = {m: _choose([point for point in grid if point.modality == m], rows, usual[m]) for m in layers}
    kept = {m: priors[m, point.layer] for m, point in chosen.items()}
    return Calibration(model.name, model.weight_hash, len(read), chosen, kept, grid)


def shares(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of the similarity that is left, and the faithfulness, of pairs together.

    Args:
        sums: (..., 5), over the pairs: how far the similarity falls, on average, when a part is hidden that is drawn
            from the map by its share of it, from all parts alike, and when the part is hidden that costs most; the
            similarity through the bottleneck; and the clean one.

    Returns:
        (...) both. Nothing is left of a similarity of 0 or less, and no map is faithful where no part costs more than
        another.

    >>> left, faithful = shares(np.array([0.3, 0.1, 0.5, 0.2, 0.4]))
    >>> round(float(left), 2), round(float(faithful), 2)
    (0.5, 0.5)
    """
    drawn, even, most, through, clean = np.moveaxis(sums, -1, 0)
    left = np.where(clean > 0, through / np.where(clean > 0, clean, 1), 0.0)
    return left, np.where(most > even, (drawn - even) / np.where(most > even, most - even, 1), 0.0)


def clearly_better(one: np.ndarray, other: np.ndarray, samples: int = 1000) -> bool:
    """Whether one point is worth more, or its maps are more faithful, in 97.5 % of bootstrap samples of the pairs.

    Args:
        one: (pairs, 5), as `shares` takes their sums.
        other: The same rows of the other point, on the same pairs.
        samples: How many bootstrap samples are drawn.
    """
    drawn = np.random.default_rng(0).integers(len(one), size=(samples, len(one)))
    (left, faithful), (others_left, others_faithful) = shares(one[drawn].sum(1)), shares(other[drawn].sum(1))
    worth, others_worth = faithful * left.clip(0, 1), others_faithful * others_left.clip(0, 1)
    gains = (worth - others_worth, faithful - others_faithful)
    return any(float(np.quantile(gain, 0.025)) > 0 for gain in gains)


def _choose(
    points: Sequence[GridPoint],
    rows: Mapping[tuple[Modality, Layer, float], np.ndarray],
    usual: tuple[Modality, Layer, float],
) -> GridPoint:
    """The point that is worth most, unless it is not clearly better than the default, where that was tried."""
    best = max(points, key=lambda point: point.worth)
    default = next((point for point in points if point[:3] == usual), None)
    return best if default is None or clearly_better(rows[best[:3]], rows[usual]) else default


def _explained(
    method: M2IB, modality: Modality, batches: Sequence[PairBatch], betas: Sequence[float]
) -> dict[float, list[Attribution]]:
    """One layer at each beta; the part of the model before it is run once a batch."""
    found: dict[float, list[Attribution]] = {beta: [] for beta in betas}
    for batch in batches:
        fit = method.new_fit(batch)
        for beta in betas:
            fit.restart()
            fit.towers[modality] = fit.towers[modality]._replace(beta=beta)
            optimizer = method.new_optimizer(fit.parameters())
            for _ in range(method.steps):
                fit.step(optimizer)
            found[beta] += method.results(fit)
    return found


def _rows(modality: Modality, found: Sequence[Attribution], hidden: Sequence[Attribution]) -> np.ndarray:
    """(pairs, 5), as `shares` takes their sums."""
    rows = []
    for a, without in zip(found, hidden, strict=True):
        values, falls = _content(a, modality), _content(without, modality)
        drawn = float((values * falls).sum()) / max(float(values.sum()), 1e-12)
        rows.append((drawn, falls.mean(), falls.max(), a.score_through(modality), a.score))
    return np.array(rows, dtype=float)


def _content(a: Attribution, modality: Modality) -> np.ndarray:
    """The values of a map without those of special tokens, which are never ranked with words."""
    if a.map_of(modality) is None or not np.isfinite(values := a.content_of(modality)).all():
        raise ValueError(f"Expected finite maps but the {modality} of {a.id!r} has none. Remedy: leave that pair out.")
    return values


def _spread(pairs: PairDataModule | Sequence[tuple[ImageLike, str]], count: int) -> list[Reference]:
    """So many of the pairs, evenly over them.

    Raises:
        ValueError: There are too few, or too few or many are asked for.
    """
    if not FEWEST <= count <= MOST:
        raise ValueError(f"Expected `count` to be in {FEWEST}..{MOST} but got {count}. Remedy: 32 are enough.")
    if isinstance(pairs, PairDataModule):
        pairs.setup("predict")
        there: Sequence[Reference] | Scenes = pairs.pairs
    else:
        images, texts = [image for image, _ in pairs], [text for _, text in pairs]
        there = list_pairs(GivenPairs(images, texts)) if images else []
    if len(there) < FEWEST:
        raise ValueError(
            f"Expected {FEWEST} pairs or more but got {len(there)}. Remedy: add pairs like those to explain."
        )
    return [there[round(i)] for i in np.linspace(0, len(there) - 1, min(count, len(there)))]


def _checked_betas(betas: Sequence[float]) -> list[float]:
    """The betas in order, once each."""
    if not betas or not all(math.isfinite(beta) and beta > 0 for beta in betas):
        raise ValueError(
            f"Expected `betas` to be numbers above 0 but got {list(betas)}. Remedy: for example [0.1, 0.3, 1, 3, 10]."
        )
    return sorted({float(beta) for beta in betas})


def _layers(backbone: Backbone, modality: Modality, asked: Sequence[Layer] | None) -> list[Layer]:
    """The layers to try of a tower, from its beginning to its end."""
    tower = backbone.tower(modality)
    tried = spread_layers(tower.depth, default_layer(modality, tower.depth, "measured")) if asked is None else asked
    for layer in tried:
        tower.check_layer(layer, f"{modality}_layer")
    return sorted(set(tried), key=lambda layer: -1 if layer == "embeddings" else int(layer))


def spread_layers(depth: int, default: Layer) -> set[Layer]:
    """The embeddings, the default, and blocks evenly over those that a bottleneck may sit after.

    >>> sorted(map(str, spread_layers(12, 4)))
    ['0', '10', '2', '4', '5', '8', 'embeddings']
    """
    blocks = np.linspace(0, depth - 2, min(BLOCKS, depth - 1)).round().astype(int)
    return {"embeddings", default, *blocks.tolist()}


def _as_point(row: Mapping[str, str]) -> GridPoint:
    """A row of `grid.csv`."""
    layer: Layer = "embeddings" if row["layer"] == "embeddings" else int(row["layer"])
    modality: Modality = "image" if row["modality"] == "image" else "text"
    return GridPoint(modality, layer, *(float(row[name]) for name in GridPoint._fields[2:]))


def _configured(folder: str | Path) -> dict[str, Any]:
    """The arguments of `calibration.yaml`."""
    try:
        return dict(yaml.safe_load((Path(folder) / CONFIGURATION).read_text("utf-8"))["model"]["init_args"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as problem:
        raise _not_ours(folder, problem) from problem


def _not_ours(folder: str | Path, problem: Exception) -> ValueError:
    return ValueError(
        f"Expected a folder that `m2ib calibrate` wrote but got {str(folder)!r} ({problem}). "
        "Remedy: name that folder, or run it again."
    )
