"""Training a reader of masks: the loss of the fit itself, over the pairs of a user."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from m2ib_lightning.bottleneck import NoiseBank
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.embed_alone import embed_alone
from m2ib_lightning.methods.m2ib import M2IB
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.methods.objective import gradients
from m2ib_lightning.methods.reader import MaskReader, Size, new_reader
from m2ib_lightning.types import BadPair, Pair

KEPT = 2**31
"""Bytes of hidden states that are kept from epoch to epoch, so that what comes before the bottleneck runs once."""


class ReaderTraining(pl.LightningModule):
    """Trains a network that reads masks off pairs, so that their loss is what a fit would bring it to.

    Of each batch the masks are read, the fit's own loss and its gradient at these masks are computed, by the code and
    with the terms that the fit has, and the gradient goes on into the network.

    Args:
        method: The fit whose loss it is; its number of noise samples is not.
        width: Channels of the network's tokens, a multiple of 32.
        blocks: Transformer blocks of the network, >= 1.
        lr: Learning rate of AdamW, falling to 0 over the epochs.
        noise_samples: Of each pair and step; noise is drawn anew for each step, so few will do.

    Attributes:
        reader: What is trained.
        held_out: Ids of pairs that it is not trained on.

    Raises:
        ValueError: An argument is out of its range, or the method has a reader already.
    """

    def __init__(
        self, method: M2IB, width: int = 128, blocks: int = 2, lr: float = 1e-3, noise_samples: int = 2
    ) -> None:
        super().__init__()
        check_at_least("blocks", blocks, 1)
        check_at_least("noise_samples", noise_samples, 1)
        if width < 32 or width % 32:
            raise ValueError(f"Expected `width` to be a multiple of 32 but got {width}. Remedy: 128.")
        if method.reader is not None:
            raise ValueError("Expected a method without `reader` to train one for. Remedy: leave it out.")
        self._method = [method]  # in a list: its weights are none of the reader's
        self.lr, self.noise_samples = lr, noise_samples
        self.reader = self._untrained(Size(width, blocks))
        self.held_out: frozenset[str] = frozenset()
        self._fits: dict[tuple[str, ...], MaskFit] = {}
        self._bytes = 0

    @property
    def method(self) -> M2IB:
        """The fit whose loss it is."""
        return self._method[0]

    def _untrained(self, size: Size) -> MaskReader:
        backbone, method = self.method.prepare(), self.method
        priors = {m: tower.prior for m, tower in method.towers.items()}
        return new_reader(priors, embed_alone(backbone, "text", ["a"]).shape[-1], size, method.setting)

    def setup(self, stage: str) -> None:
        """Bring the model to where the reader is trained."""
        self.method.prepare().to(self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Any:
        """AdamW."""
        return torch.optim.AdamW(self.reader.parameters(), self.lr, weight_decay=0.01)

    def on_train_epoch_start(self) -> None:
        """Let the rate fall linearly to 0 over the epochs, over more of them where a training that ended goes on."""
        rate = self.lr * (1 - self.current_epoch / max(self.trainer.max_epochs or 1, 1))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: Sequence[Pair | BadPair], batch_idx: int) -> Tensor | None:
        """One step; pairs that cannot be read are passed over."""
        pairs = [pair for pair in batch if isinstance(pair, Pair) and pair.id not in self.held_out]
        if not pairs:
            return None
        with gradients():
            fit = self.fit_of(pairs)
            fit.noise = NoiseBank(self.global_step, self.noise_samples, antithetic=True)
            loss, values = loss_of(self.reader, fit)
        for name, value in values.items():
            self.log(name, value.mean(), prog_bar=name == "loss/total", batch_size=len(pairs))
        return loss

    def hold_out(self, batch: Sequence[Pair | BadPair]) -> list[Pair]:
        """Leave the pairs of a batch out of the training; gives them."""
        pairs = [pair for pair in batch if isinstance(pair, Pair)]
        self.held_out = frozenset(pair.id for pair in pairs)
        return pairs

    def fit_of(self, pairs: Sequence[Pair]) -> MaskFit:
        """What the frozen model makes of a batch; kept for the next epoch while there is room."""
        key = tuple(pair.id for pair in pairs)
        if key not in self._fits:
            fit = self.method.new_fit(self.method.prepare().preprocess_pairs(pairs))
            fit.batch = fit.batch._replace(pairs=(), pixel_values=fit.batch.pixel_values[:, :, :0])
            size = 4 * sum(hidden.states.nbytes for hidden in fit.hidden.values())
            if self._bytes + size > KEPT:
                return fit
            self._fits[key], self._bytes = fit, self._bytes + size
        return self._fits[key]


def loss_of(reader: MaskReader, fit: MaskFit) -> tuple[Tensor, dict[str, Tensor]]:
    """A number whose gradient in the reader's weights is that of the fit's loss, a mean over the pairs.

    Args:
        reader: That is trained.
        fit: Whose masks become those that the reader finds.

    Returns:
        That number, and the values of the fit's step for these masks, see `MaskFit.evaluate`.
    """
    found = {modality: fit.read_masks(reader, modality) for modality in fit.towers}
    for modality, alpha in found.items():
        fit.bottleneck(modality).alpha.data.copy_(alpha.detach())
    fit.zero_grad()
    values = fit.evaluate()
    usable = rearrange(values["loss/total"].isfinite(), "b -> b 1 1") / fit.pairs
    total = fit.clean["image"].new_zeros(())
    for modality, alpha in found.items():
        gradient = fit.bottleneck(modality).alpha.grad
        assert gradient is not None
        total = total + (alpha * gradient.nan_to_num() * usable).sum()
    return total, values


def compare_with_fit(training: ReaderTraining, pairs: Sequence[Pair]) -> str:
    """How the maps that are read off pairs agree with those of the fit, in a line for a person."""
    method = training.method
    batch, steps = method.prepare().preprocess_pairs(pairs), method.steps
    found, seconds = [], []
    for method.reader, method.steps in ((training.reader.eval(), 0), (None, steps)):
        started = time.perf_counter()
        found.append(method.attribute(batch))
        seconds.append(time.perf_counter() - started)
    alike = []
    for modality in method.modalities:
        maps = [[np.asarray(a.map_of(modality)).ravel() for a in results] for results in found]
        each = [np.corrcoef(read, fitted)[0, 1] for read, fitted in zip(*maps, strict=True)]
        alike.append(f"{np.nanmean(each):.3f} ({modality})")
    return (
        f"On {len(pairs)} pairs that it was not trained on its maps correlate with those of the fit by "
        f"{' and '.join(alike)}, in {seconds[0] / seconds[1]:.2f} of its time."
    )
