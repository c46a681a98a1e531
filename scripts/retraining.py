"""ROAR+: how far retrieval falls for a model tuned on pairs whose most relevant part was removed; larger is better.

Hooker et al., A Benchmark for Interpretability Methods in Deep Neural Networks, NeurIPS 2019, for both modalities as in
the M2IB paper (Wang, Rudner, Wilson, NeurIPS 2023). Expensive: a model is tuned for each method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.types import Modality, Pair, PairBatch


class Tuning(NamedTuple):
    """How the copy of the model is tuned, by AdamW on CLIP's symmetric contrastive loss.

    Attributes:
        steps: How many steps the optimiser makes.
        batch_size: How many pairs each of them reads.
        rate: The learning rate of AdamW.
        scale: What cosines are multiplied by in the loss.
        seed: The order of pairs follows from it.
    """

    steps: int = 200
    batch_size: int = 32
    rate: float = 1e-4
    scale: float = 30.0
    seed: int = 0


def explained(method: AttributionMethod, batch: PairBatch, at_once: int = 20) -> list[Attribution]:
    """The method's attributions of a large batch, a few pairs at a time."""
    rows = range(len(batch.pairs))
    return [a for i in rows[::at_once] for a in method.attribute(batch.keep(rows[i : i + at_once]))]


def removed_pixels(pixels: Tensor, maps: Tensor, mean: Tensor, percentile: float = 75) -> Tensor:
    """Pixels (B, C, H, W) with those whose map is above its percentile set to the channels' mean.

    Args:
        pixels: The pixels as the model reads them, normalised.
        maps: (B, gh, gw) or (B, H, W), brought to the pixels bilinearly.
        mean: What stands in the place of a pixel, (C,).
        percentile: Of each map, 0..100. Of a constant map nothing is removed.
    """
    if maps.shape[-2:] != pixels.shape[-2:]:
        maps = F.interpolate(maps[:, None], pixels.shape[-2:], mode="bilinear")[:, 0]
    limit = maps.flatten(1).quantile(percentile / 100, dim=1)[:, None, None]
    return torch.where((maps > limit)[:, None], mean[:, None, None], pixels)


def removed_tokens(ids: Tensor, attributions: Sequence[Attribution], padding: int, percentile: float = 90) -> Tensor:
    """Ids (B, L) with content tokens whose map is above the percentile of the content's replaced by padding.

    Positions and attention stay as they were.
    """
    ids = ids.clone()
    for row, a in zip(ids, attributions, strict=True):
        content, values = ~a.special, np.asarray(a.text_map)
        if content.any():
            high = content & (values > np.percentile(values[content], percentile))
            row[: len(high)][torch.from_numpy(high).to(row.device)] = padding
    return ids


def padding_id(backbone: Backbone) -> int:
    """The token that stands for nothing: the tokenizer's padding; 0 where that is EOS, at which CLIP's head reads."""
    tokenizer = getattr(getattr(backbone, "processor", None), "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    return 0 if pad is None or pad == getattr(tokenizer, "eos_token_id", None) else int(pad)


def degraded(batch: PairBatch, attributions: Sequence[Attribution], mean: Tensor, padding: int) -> PairBatch:
    """The batch without what the attributions, which must have both maps, call most relevant."""
    cells = torch.from_numpy(np.stack([np.asarray(a.image_map) for a in attributions])).to(batch.pixel_values.device)
    return batch._replace(
        pixel_values=removed_pixels(batch.pixel_values, cells, mean),
        input_ids=removed_tokens(batch.input_ids, attributions, padding),
    )


def embed(backbone: Backbone, modality: Modality, batch: PairBatch) -> Tensor:
    """(B, E) of length 1, with a gradient for the weights."""
    tower = backbone.tower(modality)
    hidden = tower.prefix(batch, "embeddings")
    return F.normalize(tower.finish(hidden, "embeddings").float(), dim=-1)


def tuned(
    backbone: Backbone, batch: PairBatch, tuning: Tuning, tell: Callable[[int, float], None] = lambda step, loss: None
) -> Backbone:
    """A copy of a backbone, tuned on the pairs of a batch; the original stays as it is.

    Args:
        backbone: The model to start from.
        batch: All pairs that it is trained on.
        tuning: How it is trained.
        tell: Called with each step and its loss.
    """
    copied = copy.deepcopy(backbone)
    copied.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(copied.model.parameters(), lr=tuning.rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(tuning.seed)
    with torch.enable_grad():
        for step in range(tuning.steps):
            rows = torch.randperm(len(batch.pairs), generator=generator)[: tuning.batch_size].tolist()
            part = batch.keep(rows)
            logits = tuning.scale * embed(copied, "image", part) @ embed(copied, "text", part).T
            own = torch.arange(len(rows), device=logits.device)
            loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tell(step, loss.item())
    copied.model.requires_grad_(False)
    copied.model.zero_grad(set_to_none=True)
    copied.__dict__.pop("weight_hash", None)
    return copied


@torch.no_grad()
def retrieval(backbone: Backbone, batch: PairBatch) -> Tensor:
    """(B,) in {0, 1/2, 1}: in how many of both directions a pair's own partner comes first among all of the batch."""
    cosines = embed(backbone, "image", batch) @ embed(backbone, "text", batch).T
    own = torch.arange(len(cosines), device=cosines.device)
    return ((cosines.argmax(1) == own).float() + (cosines.argmax(0) == own).float()) / 2


def roar(
    method: AttributionMethod | None,
    backbone: Backbone,
    train: Sequence[Pair],
    test: Sequence[Pair],
    tuning: Tuning | None = None,
    tell: Callable[[int, float], None] = lambda step, loss: None,
) -> Tensor:
    """Retrieval of each test pair, see `retrieval`, by a copy of the backbone tuned on degraded training pairs.

    Test pairs are degraded alike. The fall of a method is the mean without one (None: nothing is removed, tuned as
    long) minus the mean with it.
    """
    training, testing = backbone.preprocess_pairs(train), backbone.preprocess_pairs(test)
    if method is not None:
        mean, padding = training.pixel_values.mean((0, 2, 3)), padding_id(backbone)
        training = degraded(training, explained(method, training), mean, padding)
        testing = degraded(testing, explained(method, testing), mean, padding)
    return retrieval(tuned(backbone, training, tuning or Tuning(), tell), testing).cpu()
