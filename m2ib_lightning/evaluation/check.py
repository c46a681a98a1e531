"""Whether a model is one that M2IB explains well, by what can be measured without truth."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.artefacts import find_artefacts
from m2ib_lightning.evaluation.health import Health
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.objective import Objective, objectives
from m2ib_lightning.metrics import pearson, spearman
from m2ib_lightning.types import MODALITIES, Modality, Pair, PairBatch
from m2ib_lightning.version import __version__


def check_model(
    make: Callable[..., M2IB],
    pairs: Sequence[Pair],
    minutes: float = 2.0,
    at_once: int = 4,
    tell: Callable[[int], None] = lambda done: None,
) -> Health:
    """Measure as many of the pairs as the time allows, at least the first few.

    Args:
        make: Makes the method, with changes of its arguments as keywords.
        pairs: The pairs to measure on, with their pictures.
        minutes: How long it may take; no further pairs are begun after that.
        at_once: How many pairs a batch holds.
        tell: Called with how many pairs are done.
    """
    method = make()
    backbone, began = method.prepare(), time.perf_counter()
    samples = max(1, method.noise.samples // 2)
    halves = [make(backbone=backbone, seed=seed, noise_samples=samples, antithetic=False) for seed in (1, 2)]
    first = backbone.preprocess_pairs(pairs[:at_once])
    health = Health(_about(backbone, method), {m: exactness(backbone, m, first) for m in MODALITIES})
    took = 0.0
    for start in range(0, len(pairs), at_once):
        batch, begun = backbone.preprocess_pairs(pairs[start : start + at_once]), time.perf_counter()
        results = method.attribute(batch)
        took += time.perf_counter() - begun
        one, two = (half.attribute(batch) for half in halves)
        _add(health, backbone, batch, results, method)
        for modality in MODALITIES:
            maps = zip(*([a.map_of(modality) for a in some] for some in (one, two)), strict=True)
            health.halves[modality] += [_alike(a, b) for a, b in maps if a is not None and b is not None]
        tell(len(health.results))
        if time.perf_counter() - began > 60 * minutes:
            break
    health.seconds, health.gigabytes = took / len(health.results), _memory()
    return health


def exactness(backbone: Backbone, modality: Modality, batch: PairBatch) -> float | None:
    """The largest error of a tower's embedding at any layer, over the largest value of the library's own.

    None where the library has no such call, or it takes other inputs than those that the batch has.
    """
    theirs = _library_embedding(backbone, modality, batch)
    if theirs is None:
        return None
    tower, errors = backbone.tower(modality), []
    with torch.no_grad():
        for layer in ("embeddings", *range(tower.depth - 1)):
            ours = tower.finish(tower.prefix(batch, layer), layer)
            errors.append(float((ours - theirs).abs().max() / theirs.abs().max()))
    return max(errors)


def _library_embedding(backbone: Backbone, modality: Modality, batch: PairBatch) -> Tensor | None:
    """(B, E) by the library's documented call."""
    model: Any = backbone.model
    with torch.no_grad():
        if hasattr(model, "encode_image"):  # open_clip
            found = (
                model.encode_image(batch.pixel_values) if modality == "image" else model.encode_text(batch.input_ids)
            )
        elif not hasattr(model, "get_image_features") or "siglip2" in type(backbone).__name__.lower():
            return None
        elif modality == "image":
            found = model.get_image_features(pixel_values=batch.pixel_values)
        else:
            mask = {} if backbone.text.reads_padding else {"attention_mask": batch.attention_mask}
            found = model.get_text_features(input_ids=batch.input_ids, **mask)
    found = getattr(found, "pooler_output", found)
    return found if isinstance(found, Tensor) else None


def _add(health: Health, backbone: Backbone, batch: PairBatch, results: list[Attribution], method: M2IB) -> None:
    """What a batch says of calibration and artefacts."""
    of = objectives(backbone, batch)
    found = find_artefacts(backbone, batch, method.towers["image"].layer)
    for row, (a, artefacts) in enumerate(zip(results, found, strict=True)):
        if a.image_map is None or a.text_map is None:
            continue
        total = max(float(a.image_map.sum()), 1e-9)
        one = _one(of["image"], row)
        groups = ranked_groups(a.image_map)
        shown = np.ones((len(groups), a.image_map.size), dtype=np.float32)
        for hidden, group in zip(shown, groups, strict=True):
            hidden[group] = 0
        masks = rearrange(torch.from_numpy(shown), "k (gh gw) -> k 1 gh gw", gh=len(a.image_map))
        health.nats.append(np.array([a.image_map.flat[group].sum() / total for group in groups], dtype=np.float32))
        health.falls.append(_falls(one, masks))
        health.outlying.append(float(artefacts.outlying.mean()))
        health.marked.append(float(a.image_map[artefacts.outlying].sum()) / total)
        content = np.nonzero(~a.special)[0]
        if len(content) > 2:
            words = torch.ones(len(content), 1, batch.input_ids.shape[1])
            words[range(len(content)), 0, content.tolist()] = 0
            fell = _falls(_one(of["text"], row), words)
            health.words.append(float(spearman(torch.from_numpy(a.text_map[content]), torch.from_numpy(fell))))
    health.results += results


def ranked_groups(image_map: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """The patches of a map by rank, flat: the first, the second, the next two, four, eight and so on.

    >>> [group.tolist() for group in ranked_groups(np.array([[5, 9], [1, 7], [3, 2]], dtype=np.float32))]
    [[1], [3], [0, 4], [5, 2]]
    """
    order = np.argsort(-image_map, axis=None, kind="stable")
    return np.split(order, [2**k for k in range(int(np.ceil(np.log2(len(order)))))])


def _one(objective: Objective, row: int) -> Objective:
    """The objective of one pair of a batch."""
    rows = slice(row, row + 1)
    batch, embedding, target = objective.batch.keep([row]), objective.embedding[rows], objective.target[rows]
    return Objective(objective.backbone, batch, objective.modality, embedding, target)


def _falls(objective: Objective, masks: Tensor) -> NDArray[np.float32]:
    """(k,), how far the similarity falls under each mask (k, 1, ...), as a share of it."""
    if objective.modality == "text":
        masks = masks[..., : objective.inputs.shape[1]]
    fell = (objective.clean - objective.masked(masks.to(objective.inputs.device)))[:, 0]
    shares: NDArray[np.float32] = (fell / objective.clean.abs().clamp(min=1e-6)).cpu().numpy()
    return shares


def _alike(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(pearson(torch.from_numpy(a.ravel()), torch.from_numpy(b.ravel())))


def _memory() -> float:
    """Gigabytes at most, of the device if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _about(backbone: Backbone, method: M2IB) -> dict[str, Any]:
    described = backbone.describe()
    layers = ", ".join(f"{m} {setting.layer}" for m, setting in method.towers.items())
    towers = (f"{m} {described[m]['blocks']} blocks" for m in MODALITIES)
    processor = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor
    return {
        "model": f"{backbone.name}, {described['class']}, weights {backbone.weight_hash}, {', '.join(towers)}",
        "setting": f"layers {layers}; prior {method.prior}; {method.noise.samples} noise samples",
        "machine": f"{device}; m2ib_lightning {__version__}, torch {torch.__version__}",
    }
