"""Grad-CAM on the hidden states of a transformer block (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods.base import MODALITIES
from m2ib_lightning.methods.baseline import Baseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import Layer, Modality


class GradCAM(Baseline):
    """Weighs the channels of a block by their mean gradient: max(0, sum over d of mean_j(d cos / d h_jd) h_id).

    i and j run over the content tokens. The last block but one by default: behind the last, patches have no gradient.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        image_layer: Block whose output is explained, 0-based, or "embeddings".
        text_layer: The same of the text.
        seed: Not used.
    """

    unit = "1"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        image_layer: Layer | None = None,
        text_layer: Layer | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, modalities, seed)
        self.layers: dict[Modality, Layer | None] = {"image": image_layer, "text": text_layer}

    def prepare(self) -> Backbone:
        """Load the backbone and check the layers against it."""
        backbone = super().prepare()
        for modality, layer in self.layers.items():
            if layer is not None:
                backbone.tower(modality).check_layer(layer, f"{modality}_layer")
        return backbone

    def layer_of(self, modality: Modality) -> Layer:
        """The layer that a tower is explained at."""
        given = self.layers[modality]
        return self.prepare().tower(modality).depth - 2 if given is None else given

    @property
    def options(self) -> dict[str, Any]:
        """The method's own arguments."""
        return {f"{m}_layer": self.layer_of(m) for m in self.modalities}

    def relevance(self, objective: Objective) -> Tensor:
        """The weighted sum of channels, negative values at 0."""
        layer = self.layer_of(objective.modality)
        hidden = objective.states(layer)
        states = hidden.states.clone().requires_grad_()
        score = objective.of_states(states[None], hidden, layer)
        (gradient,) = torch.autograd.grad(score.sum(), states)
        content = objective.content[..., None]
        weight = (gradient * content).sum(1, keepdim=True) / content.sum(1, keepdim=True)
        return objective.token_map(((weight * states).sum(-1) * content[..., 0]).clamp(min=0))
