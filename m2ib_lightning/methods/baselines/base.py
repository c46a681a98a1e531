"""What baselines have in common: each gives a tower's map from its objective alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.contracts import called, check_relevance
from m2ib_lightning.methods.base import AttributionMethod, as_attributions
from m2ib_lightning.methods.mismatched import match_scores
from m2ib_lightning.methods.objective import Objective, gradients, objectives
from m2ib_lightning.types import MODALITIES, Layer, Modality, PairBatch


class Baseline(AttributionMethod):
    """A method that explains one tower after the other, a whole batch of pairs at a time.

    A further one implements `relevance`, in one file. What its constructor takes goes into every result's settings.
    """

    @abstractmethod
    def relevance(self, objective: Objective) -> Tensor:
        """Explain one tower; gradients are on when this is called.

        Args:
            objective: The cosine similarity of the pairs as a function of this tower's input.

        Returns:
            The maps, (b, gh, gw) of images and (b, l) of texts.
        """

    def _maps(self, objective: Objective) -> Tensor:
        """What `relevance` gives, held against its contract."""
        grid = objective.grid or objective.inputs.shape[1:2]
        maps = called(self, self.relevance, objective)
        return check_relevance(self, maps, (len(objective.inputs), *grid)).detach()

    def attribute(self, batch: PairBatch) -> list[Attribution]:
        """Explain a batch of pairs; one result each, in order."""
        with gradients():
            both = objectives(self.prepare(), batch)
            asked = MODALITIES if batch.targets is None else batch.targets
            maps = {m: self._maps(both[m]) for m in self.modalities if m in asked}
        return as_attributions(
            batch,
            image=list(maps["image"]) if "image" in maps else None,
            text=list(maps["text"]) if "text" in maps else None,
            special=both["text"].hidden.special,
            score=F.cosine_similarity(both["image"].embedding, both["text"].embedding),
            unit=self.unit,
            settings=self.settings,
            **match_scores(self.prepare(), both["text"].target, both["image"].target),
        )


class LayerBaseline(Baseline):
    """A baseline that explains the hidden states of one layer; a further one says its `default_layer`.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        image_layer: Block whose output is explained, 0-based, or "embeddings"; by default what the method says.
        text_layer: The block of the text's tower, likewise.
    """

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        image_layer: Layer | None = None,
        text_layer: Layer | None = None,
    ) -> None:
        super().__init__(backbone, modalities)
        self.layers: dict[Modality, Layer | None] = {"image": image_layer, "text": text_layer}

    @abstractmethod
    def default_layer(self, depth: int) -> int:
        """The block that is explained, of a tower with so many blocks, where no layer is given."""

    def prepare(self) -> Backbone:
        """Load the backbone, and check the layers against it.

        Raises:
            ValueError: A tower has no such layer.
        """
        backbone = super().prepare()
        for modality, layer in self.layers.items():
            if layer is not None:
                backbone.tower(modality).check_layer(layer, f"{modality}_layer")
        return backbone

    def layer_of(self, modality: Modality) -> Layer:
        """The layer that a tower is explained at."""
        given = self.layers[modality]
        return self.default_layer(self.prepare().tower(modality).depth) if given is None else given

    @property
    def settings(self) -> dict[str, Any]:
        """What a result is made with, the layers as they were settled."""
        return super().settings | {f"{m}_layer": self.layer_of(m) for m in self.modalities}
