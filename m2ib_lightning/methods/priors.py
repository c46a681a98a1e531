"""Where a bottleneck sits and what its noise is drawn from: the priors of a model, measured once and kept."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data.scenes import make_scene
from m2ib_lightning.printable import printable
from m2ib_lightning.prior import Prior, PriorStatistics, read_priors, unit_prior, write_priors
from m2ib_lightning.types import Layer, Modality, PairBatch

SCENES = 64
"""How many scenes a prior is measured over when the user gives no data: some 3,000 tokens of a ViT-B/32."""

EDITION = 1
"""Of those scenes; a change of what they are raises it, so that kept priors of before are not used."""

UNSEEN = "The defaults were chosen on other models than %s; `m2ib calibrate` finds what suits it from 8 pairs or more."
"""Said of a model that nothing is kept of yet."""


def default_layer(modality: Modality, depth: int, prior: str) -> Layer:
    """Where the bottleneck sits unless the user says.

    With the unit prior the released default, block 9 of 12. With a measured one the image's is earlier, before CLS has
    gathered the picture, and the text's is on the embeddings, since EOS reads the words in the first blocks.

    >>> default_layer("image", 12, "unit"), default_layer("image", 12, "measured")
    (9, 4)
    >>> default_layer("text", 12, "measured")
    'embeddings'
    """
    if prior == "unit":
        return max(0, min(round(0.75 * depth), depth - 2))
    return "embeddings" if modality == "text" else max(0, min(round(0.375 * depth), depth - 2))


@torch.no_grad()
def measure_over(
    backbone: Backbone, batches: Iterable[PairBatch], layers: Mapping[Modality, Layer]
) -> dict[str, Prior]:
    """Mean and standard deviation of each channel of a model's hidden states over data.

    Args:
        backbone: The model whose states are measured.
        batches: The data, as `backbone.preprocess` gives it.
        layers: The layer of each tower to measure.

    Raises:
        RuntimeError: There is no data.
    """
    statistics = {modality: PriorStatistics(layer) for modality, layer in layers.items()}
    for batch in batches:
        for modality, layer in layers.items():
            statistics[modality].update(backbone.tower(modality).prefix(batch, layer))
    return {modality: s.prior() for modality, s in statistics.items()}


def find_priors(backbone: Backbone, prior: str, layers: Mapping[Modality, Layer]) -> dict[str, Prior]:
    """The priors that an argument names.

    Args:
        backbone: The model that is explained.
        prior: "unit", "measured" (over scenes; kept in the user's cache by the model's hash) or a file of priors.
        layers: The layer of each tower.

    Raises:
        ValueError: There is no such file, or it was measured on another model or at other layers.
    """
    if prior == "unit":
        return {m: unit_prior(backbone.tower(m).width) for m in layers}
    if prior != "measured":
        return _from_file(Path(prior), backbone, layers)
    found: dict[str, Prior] = {}
    for modality, layer in layers.items():
        found |= _kept(backbone, modality, layer)
    if not found and backbone.name != "embedded" and not any(cache_folder().glob(f"{backbone.weight_hash}-*")):
        logging.getLogger(__name__).warning(UNSEEN, printable(backbone.name))
    for modality, layer in layers.items():
        if modality not in found:
            found |= _measured(backbone, modality, layer)
    return found


def _kept(backbone: Backbone, modality: Modality, layer: Layer) -> dict[str, Prior]:
    """The prior that was measured before, {} if there is none that can be trusted."""
    path = _cache_file(backbone, modality, layer)
    if not path.is_file():
        return {}
    try:
        if is_open_to_others(path):
            raise ValueError(f"Expected {path} to be writable by its user alone. Remedy: chmod go-w that folder.")
        return _from_file(path, backbone, {modality: layer})
    except ValueError as problem:
        warnings.warn(printable(f"{problem} It is measured again now."), stacklevel=2)
        return {}


def _measured(backbone: Backbone, modality: Modality, layer: Layer) -> dict[str, Prior]:
    """The prior over scenes, kept for the next time; several processes may do so at once."""
    measured = measure_over(backbone, scene_batches(backbone), {modality: layer})
    path = _cache_file(backbone, modality, layer)
    # A cache that cannot be written costs a second each time and nothing else.
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_priors(path, measured, **about(backbone, {modality: layer}))
    return measured


def is_open_to_others(path: Path) -> bool:
    """Whether anybody else could have written a file: a checksum tells damage, not intent."""
    if not hasattr(os, "getuid"):  # Windows
        return False
    found = [path.stat(), path.parent.stat()]
    return any(f.st_mode & 0o002 or f.st_uid not in (os.getuid(), 0) for f in found)


def about(backbone: Backbone, layers: Mapping[Modality, Layer]) -> dict[str, str]:
    """What a file of priors must say of itself to be used with a model at these layers."""
    return {"weights": backbone.weight_hash, **{f"{m}_layer": str(layer) for m, layer in layers.items()}}


def _from_file(path: Path, backbone: Backbone, layers: Mapping[Modality, Layer]) -> dict[str, Prior]:
    priors, said = read_priors(path)
    wanted = about(backbone, layers)
    wrong = {key: said.get(key) for key, value in wanted.items() if said.get(key) != value}
    wrong |= {
        f"{m} width": str(len(priors[m].mean)) if m in priors else None
        for m in layers
        if m not in priors or len(priors[m].mean) != backbone.tower(m).width
    }
    if wrong:
        raise ValueError(
            f"Expected priors measured with {wanted} but {str(path)!r} says {wrong}. "
            "Remedy: run `m2ib calibrate` for this model, or take its layers from there."
        )
    return {m: priors[m] for m in layers}


def scene_batches(backbone: Backbone) -> Iterable[PairBatch]:
    """The scenes that stand for data where the user gives none."""
    # Far from the seeds that tests and evaluations use, and from those that the embedded model was trained on.
    scenes = [make_scene(900_000 + i, objects=2 + i % 3, named=1 + i % 2) for i in range(SCENES)]
    for start in range(0, SCENES, 16):
        some = scenes[start : start + 16]
        yield backbone.preprocess([s.image for s in some], [s.text for s in some])


def cache_folder() -> Path:
    """Where what was measured of models is kept, by the hash of their weights."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m2ib_lightning" / "priors"


def _cache_file(backbone: Backbone, modality: Modality, layer: Layer) -> Path:
    return cache_folder() / f"{backbone.weight_hash}-{modality}-{layer}-{EDITION}.safetensors"
