"""Training a reader of masks: those that the fit finds are distilled into it, over the pairs of a user."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from einops import reduce
from torch import Tensor

from m2ib_lightning.bottleneck import gaussian_capacity
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.files import replacing
from m2ib_lightning.methods.m2ib import M2IB
from m2ib_lightning.methods.objective import gradients
from m2ib_lightning.methods.reader import MaskReader, Size, TowerReader, new_reader
from m2ib_lightning.metrics.map_similarity import pearson
from m2ib_lightning.types import BadPair, HiddenStates, Modality, Pair


class Known(NamedTuple):
    """What a fit found of a batch, and what a reader has to find it from.

    Attributes:
        hidden: The states at the bottleneck.
        pull: (B, L, D), see `MaskFit.pull`.
        alpha: (B, L, D), the mask logits of the fit.
        open: (B, L) bool, the tokens that are masked, of pairs whose loss is finite.
    """

    hidden: HiddenStates
    pull: Tensor
    alpha: Tensor
    open: Tensor


class ReaderTraining(pl.LightningModule):
    """Trains a network that reads masks off pairs, so that they are those that a fit would find.

    In the first epoch each batch is fitted; what is found is kept on the disk, for the epochs that follow and for the
    same training after it was stopped.

    Args:
        method: The fit whose masks are to be read.
        folder: What fits find is kept in; made if it is not there.
        width: Channels of the network's tokens, a multiple of 32.
        blocks: Transformer blocks of the network, >= 1.
        lr: Learning rate of AdamW, falling to 0 over the epochs.

    Attributes:
        reader: What is trained.
        held_out: Ids of pairs that it is not trained on.

    Raises:
        ValueError: An argument is out of its range, or the method has a reader already.
    """

    def __init__(self, method: M2IB, folder: Path, width: int = 128, blocks: int = 2, lr: float = 1e-3) -> None:
        super().__init__()
        check_at_least("blocks", blocks, 1)
        if width < 32 or width % 32:
            raise ValueError(f"Expected `width` to be a multiple of 32 but got {width}. Remedy: 128.")
        if method.reader is not None:
            raise ValueError("Expected a method without `reader` to train one for. Remedy: leave it out.")
        self._method = [method]  # in a list: its weights are none of the reader's
        self.lr, self.folder = lr, folder
        method.prepare()
        self.reader = new_reader({m: t.prior for m, t in method.towers.items()}, Size(width, blocks), method.setting)
        self.held_out: frozenset[str] = frozenset()

    @property
    def method(self) -> M2IB:
        """The fit whose masks are to be read."""
        return self._method[0]

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
        values = {
            f"{modality}/{name}": value
            for modality, known in self.known(pairs).items()
            for name, value in distances(self.reader, modality, known).items()
        }
        loss = torch.stack([*values.values()]).sum()
        self.log_dict(values, batch_size=len(pairs))
        self.log("loss/total", loss, prog_bar=True, batch_size=len(pairs))
        return loss

    def hold_out(self, batch: Sequence[Pair | BadPair]) -> list[Pair]:
        """Leave the pairs of a batch out of the training; gives them."""
        pairs = [pair for pair in batch if isinstance(pair, Pair)]
        self.held_out = frozenset(pair.id for pair in pairs)
        return pairs

    def known(self, pairs: Sequence[Pair]) -> dict[Modality, Known]:
        """What the fit finds of a batch, by modality; read from the disk where it was found before."""
        about = repr([self.reader.setting, self.method.settings, [(p.id, p.text, p.fingerprint) for p in pairs]])
        file = self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.pt"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(file) as unfinished:
                torch.save({m: (tuple(k.hidden), *k[1:]) for m, k in fitted(self.method, pairs).items()}, unfinished)
        found = torch.load(file, self.device, weights_only=True)
        return {modality: Known(HiddenStates(*hidden), *rest) for modality, (hidden, *rest) in found.items()}


def fitted(method: M2IB, pairs: Sequence[Pair]) -> dict[Modality, Known]:
    """What a fit finds of a batch, in float16."""
    with gradients():
        fit = method.new_fit(method.prepare().preprocess_pairs(pairs))
        pulls = {modality: fit.pull(modality) for modality in fit.towers}
        optimizer = method.new_optimizer(fit.parameters())
        for _ in range(method.steps):
            fit.step(optimizer)
        held = fit.held()
    known: dict[Modality, Known] = {}
    for m, pull in pulls.items():
        hidden, alpha = fit.hidden[m], held[m].alpha if m in held else fit.bottleneck(m).alpha.detach()
        usable = alpha.isfinite().all(2).all(1, keepdim=True)
        size = pull.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)  # its scale is left out, and may be tiny
        known[m] = Known(
            hidden._replace(states=hidden.states.detach().half()),
            (pull / size).half(),
            alpha.nan_to_num().half(),
            fit.bottleneck(m).open & usable,
        )
    return known


def distances(reader: MaskReader, modality: Modality, known: Known) -> dict[str, Tensor]:
    """How far the masks that are read are from those of a fit, as means over the tokens that are masked.

    Args:
        reader: That is trained.
        modality: Whose masks.
        known: What the fit found.

    Returns:
        "logits", the mean square of their difference, and "nats", that of the roots of what the tokens let through: the
        map is made of these, and logits far from a fit's may still let through as little.
    """
    tower = cast(TowerReader, reader.towers[modality])
    x, found, wanted = tower.normalised(known.hidden), reader(modality, known.hidden, known.pull), known.alpha.float()
    nats = [reduce(gaussian_capacity(x, alpha), "b l d -> b l", "sum").clamp(min=1e-6) for alpha in (found, wanted)]
    of_tokens = {
        "logits": reduce((found - wanted).square(), "b l d -> b l", "mean"),
        "nats": (nats[0].sqrt() - nats[1].sqrt()).square(),
    }
    count = known.open.sum().clamp(min=1)
    return {name: (value * known.open).sum() / count for name, value in of_tokens.items()}


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
        maps = [[torch.from_numpy(a.content_of(modality)) for a in results] for results in found]
        each = torch.stack([pearson(read, fitted) for read, fitted in zip(*maps, strict=True)])
        alike.append(f"{each.nanmean():.3f} ({modality})")
    return (
        f"On {len(pairs)} pairs that it was not trained on its maps correlate with those of the fit by "
        f"{' and '.join(alike)}, in {seconds[0] / seconds[1]:.2f} of its time."
    )
