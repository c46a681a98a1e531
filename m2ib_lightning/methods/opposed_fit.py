"""The fit of pairs against targets whose maps are less what speaks for another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.bottleneck import NoiseBank
from m2ib_lightning.losses import LossTerm
from m2ib_lightning.methods.keeping import Held
from m2ib_lightning.methods.mask_fit import MaskFit, TowerSetting
from m2ib_lightning.types import Modality, PairBatch


class OpposedFit(MaskFit):
    """A fit against a target t whose maps are max(0, M(t) - M(t')), M being the nats of a `MaskFit`, t' another target.

    A part of a picture in which "a red crab" and "a blue crab" are both seen, such as a patch on the border of two
    crabs, must be kept for either; it does not tell them apart. Masks for t' are fitted beside those for t and by the
    same steps. All that is not a map is that of t. Where nothing else of the pairs is explained, each of the two has
    half of the noise samples, so that both take no longer than one.

    Args:
        backbone: As for `MaskFit`.
        batch: The pairs, with their targets and `opposed`; where that is zeros, maps are M(t).
        towers: As for `MaskFit`, as are `loss_terms` and `noise`.
        loss_terms: The terms whose weighted sum is minimised.
        noise: The bank of noise that all batches share.
        more: The other arguments of `MaskFit`.

    Attributes:
        opposite: The fit against t'.
    """

    def __init__(
        self,
        backbone: Backbone,
        batch: PairBatch,
        towers: Mapping[Modality, TowerSetting],
        loss_terms: Sequence[LossTerm],
        noise: NoiseBank,
        *more: Any,
    ) -> None:
        assert batch.targets is not None and batch.opposed is not None
        away = {m: batch.opposed[m] for m in batch.targets if batch.opposed[m].any()}
        # Of every pair, that none depends on which others it is beside.
        alone = all(batch.opposed[m].any(-1).all() for m in batch.targets)
        noise = noise.half if alone else noise
        super().__init__(backbone, batch, towers, loss_terms, noise, *more)
        other = batch._replace(targets=away)
        self.opposite = MaskFit(backbone, other, towers, loss_terms, noise, *more, same=self)

    def accumulate(self, backward: Callable[[Tensor], None] | None = None) -> dict[str, Tensor]:
        """As of `MaskFit`, of both; a pair is done for t' when it is for t."""
        values = super().accumulate(backward)
        self.opposite.accumulate(backward)
        self.opposite.stopping.running &= self.stopping.running
        return values

    def hold_stopped(self) -> None:
        """As of `MaskFit`, of both."""
        super().hold_stopped()
        self.opposite.hold_stopped()

    def restart(self) -> None:
        """As of `MaskFit`, of both."""
        super().restart()
        self.opposite.restart()

    def masks(self) -> list[dict[Modality, Tensor]]:
        """As of `MaskFit`, those for t' behind those for t."""
        return super().masks() + self.opposite.masks()

    def put_masks(self, masks: Sequence[Mapping[Modality, Tensor]]) -> None:
        """As of `MaskFit`, of both where both are given."""
        super().put_masks(masks[:1])
        if masks[1:]:
            self.opposite.put_masks(masks[1:])

    def keep_rows(self, rows: Tensor, optimizer: Optimizer) -> None:
        """As of `MaskFit`, of both."""
        super().keep_rows(rows, optimizer)
        self.opposite.keep_rows(rows, optimizer)

    def nats(self, modality: Modality, held: Held | None = None) -> Tensor:
        """(B, L) nats, those for t' taken off."""
        found = super().nats(modality, held)
        if modality not in self.opposite.towers:
            return found
        assert self.batch.opposed is not None
        opposed = self.batch.opposed[modality].any(-1, keepdim=True).to(found)
        return (found - opposed * self.opposite.nats(modality).to(found)).clamp(min=0)
