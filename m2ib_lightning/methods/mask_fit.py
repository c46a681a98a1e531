"""The fit of a batch of pairs: their masks, what one step computes, and what is read off at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.bottleneck import InformationBottleneck, NoiseBank, ReadOut
from m2ib_lightning.losses import Bottlenecked, LossTerm
from m2ib_lightning.prior import Prior
from m2ib_lightning.types import HiddenStates, Layer, Modality, PairBatch


class TowerSetting(NamedTuple):
    """How one tower is explained.

    Attributes:
        layer: Where its bottleneck sits.
        beta: What a nat of compression costs against similarity.
        prior: What noise is drawn from.
        read_out: What becomes of the token that the head reads.
    """

    layer: Layer
    beta: float
    prior: Prior
    read_out: ReadOut


class MaskFit(nn.Module):
    """Masks of a batch of pairs and one step of their fit.

    The part of each tower before its bottleneck and the clean embeddings are computed once, here.

    Args:
        backbone: Frozen.
        batch: The pairs.
        towers: The towers to explain.
        loss_terms: What is minimised, for each tower.
        noise: Shared by all batches.
    """

    def __init__(
        self,
        backbone: Backbone,
        batch: PairBatch,
        towers: Mapping[Modality, TowerSetting],
        loss_terms: Sequence[LossTerm],
        noise: NoiseBank,
    ) -> None:
        super().__init__()
        # Tuples and lists of them: what belongs to the method is not registered here a second time.
        self._shared = (backbone, tuple(loss_terms), noise)
        self.batch, self.towers = batch, dict(towers)
        self.hidden: dict[Modality, HiddenStates] = {}
        self.clean: dict[Modality, Tensor] = {}
        self.history: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for modality in ("image", "text"):
                layer = self.towers[modality].layer if modality in self.towers else "embeddings"
                tower = backbone.tower(modality)
                hidden = tower.prefix(batch, layer)
                self.hidden[modality] = hidden
                self.clean[modality] = tower.suffix(hidden.states[None], hidden, layer)[0].float()
        self.bottlenecks = nn.ModuleDict(
            {
                modality: InformationBottleneck(
                    self.hidden[modality],
                    setting.prior.to(self.clean[modality].device),
                    # On the embeddings the read-out token has not read anything yet: it is a token like any other.
                    "bottleneck" if setting.layer == "embeddings" else setting.read_out,
                )
                for modality, setting in self.towers.items()
            }
        )

    @property
    def score(self) -> Tensor:
        """(B,) cosine similarity of the clean pairs."""
        return F.cosine_similarity(self.clean["image"], self.clean["text"])

    def tower_pass(self, modality: Modality, step: int) -> Bottlenecked:
        """One tower read through its bottleneck with the noise of a step."""
        backbone, _, noise = self._shared
        tower, hidden, bottleneck = backbone.tower(modality), self.hidden[modality], self.bottlenecks[modality]
        assert isinstance(bottleneck, InformationBottleneck)
        eps = noise(step, modality, tower.length, tower.width, bottleneck.alpha.device)
        other: Modality = "text" if modality == "image" else "image"
        return Bottlenecked(
            modality=modality,
            alpha=bottleneck.alpha,
            lambda_=bottleneck.lambda_,
            capacity=bottleneck.capacity(),
            open=bottleneck.open,
            content=bottleneck.open & ~hidden.special,
            grid=tower.grid(self.batch),
            embedding=tower.suffix(bottleneck(eps), hidden, self.towers[modality].layer),
            clean=self.clean[modality],
            other=self.clean[other],
        )

    def forward(self, step: int) -> dict[str, Tensor]:
        """Values per pair, (B,) each: "loss/total" with its gradient, and each term unweighted as "image/<term>".

        Kept, detached, in `history`.
        """
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.clean["image"].device)
        for modality, setting in self.towers.items():
            seen = self.tower_pass(modality, step)
            for term in self._shared[1]:
                value = values[f"{modality}/{term.name}"] = term(seen)
                total = total + term.weight_at(setting.beta) * value
        self.history.append({name: value.detach() for name, value in {"loss/total": total, **values}.items()})
        return {"loss/total": total, **values}

    @torch.no_grad()
    def image_maps(self) -> list[Tensor] | None:
        """Per pair (gh, gw) nats, the capacity of each patch summed over channels, or None if not explained."""
        grid = self.towers.get("image") and self._shared[0].image.grid(self.batch)
        if not grid:
            return None
        content = ~self.hidden["image"].special
        return [row[keep].reshape(grid) for row, keep in zip(self._token_capacity("image"), content, strict=True)]

    @torch.no_grad()
    def text_maps(self) -> list[Tensor] | None:
        """Per pair (L,) nats, the capacity of each token summed over channels, or None if not explained."""
        return list(self._token_capacity("text")) if "text" in self.towers else None

    def _token_capacity(self, modality: Modality) -> Tensor:
        bottleneck = self.bottlenecks[modality]
        assert isinstance(bottleneck, InformationBottleneck)
        return bottleneck.capacity().sum(-1)
