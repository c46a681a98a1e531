"""What baselines explain: the cosine similarity of a batch of pairs as a function of one tower's input."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.types import HiddenStates, Layer, Modality, PairBatch

SEQUENCE_VALUES = 2**21
"""Values of hidden states (sequences x tokens x channels) that a forward pass without gradient may hold at once."""


class Objective:
    """cos(f_m(x), e_other) with x the pixels (B, 3, H, W) or token embeddings (B, L, D) of one modality m.

    Args:
        backbone: Frozen.
        batch: The pairs.
        modality: m.
        target: (B, E) clean embedding of the other modality.
        clean: (B,) cosine similarity of the clean pairs.

    Attributes:
        inputs: x of the pairs as they are.
        clean: As given.
        hidden: The tower's states on the embeddings.
        content: (B, L) bool, the tokens that stand for a part of the input.
        grid: (gh, gw) of an image, else None.
    """

    def __init__(self, backbone: Backbone, batch: PairBatch, modality: Modality, target: Tensor, clean: Tensor) -> None:
        self.backbone, self.modality, self.tower = backbone, modality, backbone.tower(modality)
        # Clones: what was made in inference mode cannot take part in a gradient.
        self.batch = batch._replace(
            pixel_values=batch.pixel_values.clone(),
            input_ids=batch.input_ids.clone(),
            attention_mask=batch.attention_mask.clone(),
        )
        self.target, self.clean = target, clean
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

    def states(self, layer: Layer) -> HiddenStates:
        """The tower's hidden states after block `layer`; no gradient."""
        with torch.no_grad():
            return self.tower.prefix(self.batch, layer)

    def of_states(self, states: Tensor, hidden: HiddenStates, layer: Layer) -> Tensor:
        """(K, B) cosine similarities with hidden states (K, B, L, D) after block `layer`."""
        embedding = self.tower.suffix(states, hidden, layer).float()
        return F.cosine_similarity(embedding, self.target, dim=-1)

    def __call__(self, inputs: Tensor) -> Tensor:
        """(K, B) cosine similarities with other inputs, (K, B, 3, H, W) or (K, B, L, D)."""
        many, flat = repeat(self.batch, len(inputs)), inputs.flatten(0, 1)
        if self.modality == "image":
            hidden = self.tower.prefix(many._replace(pixel_values=flat), "embeddings")
        else:
            with token_embeddings(many.input_ids, flat):
                hidden = self.tower.prefix(many, "embeddings")
        embedding = self.tower.suffix(hidden.states[None], hidden, "embeddings")[0].float()
        return F.cosine_similarity(embedding.unflatten(0, (len(inputs), -1)), self.target, dim=-1)

    @torch.no_grad()
    def masked(self, masks: Tensor, fill: Tensor | None = None) -> Tensor:
        """(K, B) cosine similarities with inputs x * m + fill * (1 - m), a few at a time.

        Args:
            masks: m in [0, 1]: (K, B or 1, h, w) of an image, spread over the pixels by nearest neighbours;
                (K, B or 1, L) of a text, whose special tokens stay as they are.
            fill: Inputs that stand where the mask is 0, which broadcast with x; 0 by default: the data set's mean of
                normalised pixels, no token.
        """
        tokens, width = self.hidden.states.shape[1:]
        at_once = max(1, SEQUENCE_VALUES // (len(self.inputs) * tokens * width))
        return torch.cat([self(self.blend(part, fill)) for part in masks.split(at_once)])

    def blend(self, masks: Tensor, fill: Tensor | None = None) -> Tensor:
        """The inputs that `masked` reads, (K, B, ...)."""
        if self.modality == "image":
            size = self.inputs.shape[-2:]
            if masks.shape[-2:] != size:
                masks = F.interpolate(masks.float(), size, mode="nearest")
            weight = masks[:, :, None].float()
        else:
            weight = torch.where(self.content, masks.float(), masks.new_ones((), dtype=torch.float32))[..., None]
        blended = self.inputs * weight
        return blended if fill is None else blended + fill * (1 - weight)

    def token_map(self, values: Tensor) -> Tensor:
        """Values per token (B, L) as a map: (B, gh, gw) of an image, (B, L) of a text."""
        return values[self.content].reshape(-1, *self.grid) if self.grid else values * self.hidden.valid

    def input_map(self, values: Tensor) -> Tensor:
        """Values per input element as a map, summed over channels and over the pixels of each patch."""
        if not self.grid:
            return values.sum(-1) * self.hidden.valid
        cell = self.inputs.shape[-2] * self.inputs.shape[-1] / math.prod(self.grid)
        return F.adaptive_avg_pool2d(values.sum(-3), self.grid) * cell

    def gradient(self, inputs: Tensor) -> Tensor:
        """Gradients of the similarities (K, B) in their own inputs, of the same shape (K, B, ...) as these."""
        inputs = inputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self(inputs).sum(), inputs)
        return gradient


def objectives(backbone: Backbone, batch: PairBatch) -> dict[Modality, Objective]:
    """The objective of each tower, with the clean embedding of the other."""
    image, text = backbone.embed("image", batch).float(), backbone.embed("text", batch).float()
    clean = F.cosine_similarity(image, text, dim=-1)
    return {
        "image": Objective(backbone, batch, "image", text, clean),
        "text": Objective(backbone, batch, "text", image, clean),
    }


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Gradients on, also inside `torch.inference_mode()`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def repeat(batch: PairBatch, times: int) -> PairBatch:
    """The pairs of a batch several times, one copy after another."""
    if times == 1:
        return batch
    return batch._replace(
        pixel_values=torch.cat([batch.pixel_values] * times),
        input_ids=torch.cat([batch.input_ids] * times),
        attention_mask=torch.cat([batch.attention_mask] * times),
        views=batch.views * times,
        tokens=batch.tokens * times,
        spans=batch.spans * times,
        truncated=batch.truncated * times,
        pairs=batch.pairs * times,
    )


class _TokenEmbeddings(TorchFunctionMode):
    def __init__(self, ids: Tensor, other: Tensor | None) -> None:
        super().__init__()
        self.ids, self.other = ids, other
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is not F.embedding:
            return out
        indices = args[0] if args else (kwargs or {})["input"]
        if indices.shape != self.ids.shape or not torch.equal(indices, self.ids):
            return out
        self.found.append(out)
        return out if self.other is None else self.other


@contextlib.contextmanager
def token_embeddings(ids: Tensor, other: Tensor | None = None) -> Iterator[list[Tensor]]:
    """While open, `other` stands for what looking up these token ids gives; positions and all else stay.

    Nothing is registered on the model: the call of `torch.nn.functional.embedding` is seen on its way.

    Args:
        ids: (B, L), as the model looks them up.
        other: (B, L, D), or None to leave the embeddings as they are.

    Yields:
        A list that holds the model's own embeddings when it is left.

    Raises:
        ValueError: The model did not look them up exactly once.
    """
    with (mode := _TokenEmbeddings(ids, other)):
        yield mode.found
    if len(mode.found) != 1:
        raise ValueError(
            f"Expected a text tower that looks its tokens up in one `torch.nn.Embedding` but saw {len(mode.found)} "
            "lookups. Remedy: explain the image only (modalities: [image])."
        )
