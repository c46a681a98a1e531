"""The library's own CLIP, in float64 and with eager attention, one pair at a time, to check baselines against."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.types import Modality, PairBatch


class Run(NamedTuple):
    """One tower over one input.

    Attributes:
        cosine: () with the other modality's clean embedding.
        states: Per block (L, D), what it gave.
        attention: Per block (heads, L, L).
        mixed: Per block (L, D), attention before its output projection.
        queries, keys, values: Per block (L, D).
    """

    cosine: Tensor
    states: list[Tensor]
    attention: list[Tensor]
    mixed: list[Tensor]
    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]


class Library:
    """A `CLIPModel` in float64 for a backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self.model = CLIPModel.from_pretrained(
            _folder(backbone.name), dtype=torch.float64, attn_implementation="eager"
        ).eval()

    def single(self, backbone: Backbone, pair) -> tuple[PairBatch, Tensor, Tensor]:
        """A batch of the one pair, its pixels (3, H, W) and token embeddings (L, D)."""
        batch = backbone.preprocess_pairs([pair])
        embeddings = self.model.text_model.embeddings.token_embedding(batch.input_ids).detach()
        return batch, batch.pixel_values[0].double(), embeddings[0]

    def embed(self, modality: Modality, x: Tensor, batch: PairBatch) -> Tensor:
        """Embedding (E,) of pixels or token embeddings."""
        model = self.model
        if modality == "image":
            return model.visual_projection(model.vision_model(pixel_values=x[None]).pooler_output)[0]
        handle = model.text_model.embeddings.token_embedding.register_forward_hook(lambda *_: x[None])
        try:
            return model.text_projection(model.text_model(input_ids=batch.input_ids).pooler_output)[0]
        finally:
            handle.remove()

    def cosine(self, modality: Modality, batch: PairBatch) -> Callable[[Tensor], Tensor]:
        """cos as a function of the modality's input."""
        text = self.model.text_model.embeddings.token_embedding(batch.input_ids)[0]
        other = self.embed("text", text, batch) if modality == "image" else None
        other = self.embed("image", batch.pixel_values[0].double(), batch) if other is None else other
        return lambda x: F.cosine_similarity(self.embed(modality, x, batch), other.detach(), dim=0)

    def run(self, modality: Modality, x: Tensor, batch: PairBatch) -> Run:
        """Everything of one pass, with its graph."""
        tower = self.model.vision_model if modality == "image" else self.model.text_model
        kept: dict[str, list[Tensor]] = {name: [] for name in Run._fields[1:]}
        hooks = []
        for layer in tower.encoder.layers:
            own = layer.self_attn
            hooks += [
                layer.register_forward_hook(lambda _m, _i, o: kept["states"].append(o)),
                own.register_forward_hook(lambda _m, _i, o: kept["attention"].append(o[1])),
                own.out_proj.register_forward_pre_hook(lambda _m, i: kept["mixed"].append(i[0])),
                own.q_proj.register_forward_hook(lambda _m, _i, o: kept["queries"].append(o)),
                own.k_proj.register_forward_hook(lambda _m, _i, o: kept["keys"].append(o)),
                own.v_proj.register_forward_hook(lambda _m, _i, o: kept["values"].append(o)),
            ]
        try:
            cosine = self.cosine(modality, batch)
            for values in kept.values():
                values.clear()  # of the pass for the other modality, if it is this tower's
            return Run(cosine(x), **kept)
        finally:
            for hook in hooks:
                hook.remove()

    def head(self, modality: Modality, state: Tensor) -> Tensor:
        """What the head makes of one token (D,)."""
        model = self.model
        if modality == "image":
            return model.visual_projection(model.vision_model.post_layernorm(state))
        return model.text_projection(model.text_model.final_layer_norm(state))


def _folder(name: str) -> str:
    from m2ib_lightning.backbones.load import EMBEDDED

    return str(EMBEDDED) if name == "embedded" else name
