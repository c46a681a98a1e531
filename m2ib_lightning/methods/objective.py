"""What baselines explain: how far a tower's embeddings point along their targets, as a function of its input."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.errors import UnsuitedModel
from m2ib_lightning.losses import along
from m2ib_lightning.types import HiddenStates, Layer, Modality, PairBatch

SEQUENCE_VALUES = 2**21
"""Values of hidden states (sequences x tokens x channels) that a forward pass without gradient may hold at once."""


class Objective:
    """<f_m(x) / |f_m(x)|, t> with x the pixels (b, 3, h, w) or token embeddings (b, l, d) of one modality m.

    By default t is the normalised embedding of the other modality, and this is the cosine similarity.

    Args:
        backbone: The frozen model that is explained.
        batch: The pairs that are explained.
        modality: m, the tower whose input is explained.
        embedding: f_m(x) of the pairs as they are, (b, e).
        target: t, a direction of the shared space, (b, e).

    Attributes:
        inputs: x of the pairs as they are.
        clean: The objective of the pairs as they are, (b,).
        embedding: As given.
        hidden: The tower's states on the embeddings.
        content: The tokens that stand for a part of the input, (b, l) bool.
        grid: (gh, gw) of an image, None of a text.
    """

    def __init__(
        self, backbone: Backbone, batch: PairBatch, modality: Modality, embedding: Tensor, target: Tensor
    ) -> None:
        self.backbone, self.modality, self.tower = backbone, modality, backbone.tower(modality)
        # Clones: what was made in inference mode cannot take part in a gradient.
        self.batch = batch._replace(
            pixel_values=batch.pixel_values.clone(),
            input_ids=batch.input_ids.clone(),
            attention_mask=batch.attention_mask.clone(),
        )
        self.embedding, self.target, self.clean = embedding, target, along(embedding, target)
        with torch.no_grad():
            self.inputs, self.hidden = self._read()
        self.content = self.hidden.valid & ~self.hidden.special
        self.grid = self.tower.grid(batch)

    def _read(self) -> tuple[Tensor, HiddenStates]:
        if self.modality == "image":
            return self.batch.pixel_values, self.tower.prefix(self.batch, "embeddings")
        with token_embeddings(self.batch.input_ids) as looked_up:
            hidden = self.tower.prefix(self.batch, "embeddings")
        return looked_up[0], hidden

    def towards(self, target: Tensor) -> Objective:
        """The same pairs along another direction of the shared space, (b or 1, e)."""
        other = copy.copy(self)
        other.target, other.clean = target, along(self.embedding, target)
        return other

    def states(self, layer: Layer) -> HiddenStates:
        """The tower's hidden states after block `layer`; no gradient."""
        with torch.no_grad():
            return self.tower.prefix(self.batch, layer)

    def of_states(self, states: Tensor, hidden: HiddenStates, layer: Layer) -> Tensor:
        """Cosine similarities (k, b) with hidden states (k, b, l, d) after block `layer`."""
        embedding = self.tower.suffix(states, hidden, layer).float()
        return along(embedding, self.target)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Cosine similarities (k, b) with other inputs, (k, b, 3, h, w) or (k, b, l, d)."""
        return along(self.embed(inputs), self.target)

    def embed(self, inputs: Tensor) -> Tensor:
        """F_m (k, b, e) of other inputs, (k, b, 3, h, w) or (k, b, l, d)."""
        flat = rearrange(inputs, "k b ... -> (k b) ...")
        many = self.batch.keep([*range(len(self.inputs))] * len(inputs))  # one copy of the pairs after another
        if self.modality == "image":
            hidden = self.tower.prefix(many._replace(pixel_values=flat), "embeddings")
        else:
            with token_embeddings(many.input_ids, flat):
                hidden = self.tower.prefix(many, "embeddings")
        states = rearrange(hidden.states, "kb l d -> 1 kb l d")
        embedding = self.tower.suffix(states, hidden, "embeddings").float()
        return rearrange(embedding, "1 (k b) e -> k b e", k=len(inputs))

    def gradient(self, inputs: Tensor) -> Tensor:
        """D cos / d x at other inputs, (k, b, 3, h, w) or (k, b, l, d)."""
        points = inputs.detach().requires_grad_()
        (found,) = torch.autograd.grad(self(points).sum(), points)
        return found.float()

    def emptied(self) -> Tensor:
        """The inputs with nothing in them: zeros for pixels and for the embeddings of content tokens."""
        if self.grid:
            return torch.zeros_like(self.inputs)
        return self.inputs.masked_fill(rearrange(self.content, "b l -> b l 1"), 0)

    @torch.no_grad()
    def masked(self, masks: Tensor, fill: Tensor | None = None) -> Tensor:
        """Cosine similarities (k, b) with inputs x * m + fill * (1 - m), a few at a time.

        Args:
            masks: m in [0, 1]: (k, b or 1, rows, columns) of an image, spread over the pixels by nearest neighbours;
                (k, b or 1, l) of a text, whose special tokens stay as they are.
            fill: Inputs that stand where the mask is 0, which broadcast with x; 0 by default: the data set's mean of
                normalised pixels, no token.
        """
        return along(self.masked_embeddings(masks, fill), self.target)

    @torch.no_grad()
    def masked_embeddings(self, masks: Tensor, fill: Tensor | None = None) -> Tensor:
        """F_m (k, b, e) of inputs masked as for `masked`."""
        tokens, width = self.hidden.states.shape[1:]
        at_once = max(1, SEQUENCE_VALUES // (len(self.inputs) * tokens * width))
        return torch.cat([self.embed(self.blend(part, fill)) for part in masks.split(at_once)])

    def random_masks(self, count: int, keep: float, generator: torch.Generator) -> Tensor:
        """Masks of 0 and 1 for `masked`, 1 with chance `keep`, the same for all pairs: (k, 1, gh, gw) or (k, 1, l)."""
        # As many numbers as the longest text takes: a text's masks must not depend on the batch's longest.
        shape = self.grid or (self.tower.length,)
        masks = (torch.rand(count, 1, *shape, generator=generator) < keep).float().to(self.inputs.device)
        return masks if self.grid else masks[..., : self.inputs.shape[1]]

    def blend(self, masks: Tensor, fill: Tensor | None = None) -> Tensor:
        """The inputs that `masked` reads, (k, b, 3, h, w) or (k, b, l, d)."""
        if self.modality == "image":
            size = self.inputs.shape[-2:]
            if masks.shape[-2:] != size:
                masks = F.interpolate(masks.float(), size, mode="nearest")
            weight = rearrange(masks.float(), "k b h w -> k b 1 h w")
        else:
            weight = torch.where(self.content, masks.float(), masks.new_ones((), dtype=torch.float32))
            weight = rearrange(weight, "k b l -> k b l 1")
        blended = self.inputs * weight
        return blended if fill is None else blended + fill * (1 - weight)

    def token_map(self, values: Tensor) -> Tensor:
        """Values per token (b, l) as a map: (b, gh, gw) of an image, (b, l) of a text."""
        if not self.grid:
            return values * self.hidden.valid
        height, width = self.grid
        return rearrange(values[self.content], "(b gh gw) -> b gh gw", gh=height, gw=width)

    def input_map(self, values: Tensor) -> Tensor:
        """Values per input element as a map, summed over channels and over the pixels of each patch.

        Args:
            values: (b, 3, h, w) or (b, l, d).

        Returns:
            (b, gh, gw) or (b, l).
        """
        if not self.grid:
            return reduce(values, "b l d -> b l", "sum") * self.hidden.valid
        cell = self.inputs.shape[-2] * self.inputs.shape[-1] / math.prod(self.grid)
        # Cells overlap by a pixel where the grid does not divide the picture.
        return F.adaptive_avg_pool2d(reduce(values, "b c h w -> b h w", "sum"), self.grid) * cell


def objectives(backbone: Backbone, batch: PairBatch) -> dict[Modality, Objective]:
    """The objective of each tower, with the batch's targets or else the normalised clean embedding of the other."""
    image, text = backbone.embed("image", batch).float(), backbone.embed("text", batch).float()
    targets = {"image": F.normalize(text, dim=-1), "text": F.normalize(image, dim=-1)} | dict(batch.targets or {})
    return {
        "image": Objective(backbone, batch, "image", image, targets["image"]),
        "text": Objective(backbone, batch, "text", text, targets["text"]),
    }


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Turn gradients on, also inside `torch.inference_mode()`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


class _TokenEmbeddings(TorchFunctionMode):
    def __init__(self, ids: Tensor, other: Tensor | None) -> None:
        super().__init__()
        self.ids, self.other = ids, other
        self.found: list[Tensor] = []
        self.table: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is not F.embedding:
            return out
        indices = args[0] if args else (kwargs or {})["input"]
        if indices.shape != self.ids.shape or not torch.equal(indices, self.ids):
            return out
        self.found.append(out)
        self.table = args[1] if len(args) > 1 else kwargs["weight"]
        return out if self.other is None else self.other


def token_table(backbone: Backbone, batch: PairBatch) -> Tensor:
    """(V, d) the embeddings of all tokens, as the model looks up those of a batch; no gradient.

    Raises:
        UnsuitedModel: It does not look them up in one `torch.nn.Embedding`.
    """
    with torch.no_grad(), _TokenEmbeddings(batch.input_ids, None) as mode:
        backbone.text.prefix(batch, "embeddings")
    if mode.table is None:
        raise UnsuitedModel(
            "Expected a text tower that looks its tokens up in one `torch.nn.Embedding` but saw no lookup. "
            "Remedy: explain phrases by `WithoutPhrase`."
        )
    return mode.table.detach()


@contextlib.contextmanager
def token_embeddings(ids: Tensor, other: Tensor | None = None) -> Iterator[list[Tensor]]:
    """While open, `other` stands for what looking up these token ids gives; positions and all else stay.

    Nothing is registered on the model: the call of `torch.nn.functional.embedding` is seen on its way.

    Args:
        ids: Token ids (b, l), as the model looks them up.
        other: Embeddings (b, l, d), or None to leave the embeddings as they are.

    Yields:
        A list that holds the model's own embeddings when it is left.

    Raises:
        UnsuitedModel: The model did not look them up exactly once.
    """
    with (mode := _TokenEmbeddings(ids, other)):
        yield mode.found
    if len(mode.found) != 1:
        raise UnsuitedModel(
            f"Expected a text tower that looks its tokens up in one `torch.nn.Embedding` but saw {len(mode.found)} "
            "lookups. Remedy: explain the image only (modalities: [image])."
        )
