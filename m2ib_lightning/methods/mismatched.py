"""How similar a model finds pairs that do not belong together: what a pair's own similarity is held against."""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.files import replacing
from m2ib_lightning.methods.priors import EDITION, cache_folder, is_open_to_others, scene_batches


class Mismatched(NamedTuple):
    """Embeddings of composed scenes, which belong to no pair of the user.

    Attributes:
        image: (N, E), of length 1.
        text: (N, E), of their captions.
    """

    image: Tensor
    text: Tensor


_known: weakref.WeakKeyDictionary[Backbone, Mismatched] = weakref.WeakKeyDictionary()


@torch.no_grad()
def mismatched(backbone: Backbone) -> Mismatched:
    """The embeddings of the scenes that priors are measured over too; computed once a model and kept in the cache."""
    if backbone not in _known:
        path = cache_folder() / f"{backbone.weight_hash}-mismatched-{EDITION}.safetensors"
        _known[backbone] = _kept(path) or _embed(backbone, path)
    return _known[backbone]


def match_scores(backbone: Backbone, image: Tensor, text: Tensor) -> dict[str, list[float]]:
    """How far pairs stand above mismatched ones, in standard deviations of the similarities of those.

    Args:
        backbone: The model that embeds.
        image: (B, E) clean embeddings of the pairs' images.
        text: (B, E) clean embeddings of their texts.

    Returns:
        By "image_match" the image among captions of other pictures, by "text_match" the text among other pictures:
        (own cosine - mean) / standard deviation, one value a pair.
    """
    others = mismatched(backbone)
    image, text = (F.normalize(x.detach().float().cpu(), dim=-1) for x in (image, text))
    own = einsum(image, text, "b e, b e -> b")
    found = {}
    for name, mine, theirs in (("image_match", image, others.text), ("text_match", text, others.image)):
        similar = einsum(mine, theirs, "b e, n e -> b n")
        found[name] = ((own - similar.mean(1)) / similar.std(1).clamp(min=1e-6)).tolist()
    return found


def _embed(backbone: Backbone, path: Path) -> Mismatched:
    embedded = [(backbone.embed("image", batch), backbone.embed("text", batch)) for batch in scene_batches(backbone)]
    image, text = (F.normalize(torch.cat(rows).float().cpu(), dim=-1) for rows in zip(*embedded, strict=True))
    # A cache that cannot be written costs a second each time and nothing else.
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            save_file({"image": image, "text": text}, unfinished)
    return Mismatched(image, text)


def _kept(path: Path) -> Mismatched | None:
    """What was embedded before, if it can be trusted: rows that are not of length 1 are damaged."""
    if not path.is_file() or is_open_to_others(path):
        return None
    try:
        found = Mismatched(**load_file(path))
    except (SafetensorError, OSError, TypeError):
        return None
    lengths = rearrange([found.image.norm(dim=-1), found.text.norm(dim=-1)], "two n -> (two n)")
    return found if bool(((lengths - 1).abs() < 1e-3).all()) else None
