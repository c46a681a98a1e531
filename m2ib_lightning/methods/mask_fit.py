"""The fit of a batch of pairs: their masks, what one step computes, and what is read off at the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.bottleneck import InformationBottleneck, NoiseBank, ReadOut
from m2ib_lightning.losses import Bottlenecked, JointTerm, LossTerm
from m2ib_lightning.methods.stopping import Stopping
from m2ib_lightning.prior import Prior
from m2ib_lightning.types import HiddenStates, Layer, Modality, PairBatch

TOKENS = {"cpu": 2048, "cuda": 65536}
"""Tokens that go through a tower at once, by device: what keeps its matrix products busy and its memory small."""


Suffix = Callable[[Tensor, HiddenStates, Layer], Tensor]
"""`Tower.suffix`, or what stands for it."""


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


class FitSetting(NamedTuple):
    """What all fits of a method have in common.

    Attributes:
        backbone: Frozen.
        suffix: The part of each tower behind the bottleneck, perhaps compiled.
        towers: The towers to explain.
        loss_terms: What is minimised, for each tower.
        noise: Shared by all batches.
        tolerance: Of the convergence of a pair, see `Stopping`.
        patience: The same.
        noise_chunk: Noise samples computed at once, or None for what keeps the device busy. Changes no result.
    """

    backbone: Backbone
    suffix: Mapping[Modality, Suffix]
    towers: Mapping[Modality, TowerSetting]
    loss_terms: Sequence[LossTerm]
    noise: NoiseBank
    tolerance: float | None
    patience: int
    noise_chunk: int | None


class MaskFit(nn.Module):
    """Masks of a batch of pairs and one step of their fit.

    The part of each tower before its bottleneck and the clean embeddings are computed once, here.

    Args:
        setting: Of the method.
        batch: The pairs.

    Attributes:
        history: Per step a dictionary of (B,) values, see `forward`.
        stopping: Which pairs still run.
        bottlenecks: By modality.
    """

    def __init__(self, setting: FitSetting, batch: PairBatch) -> None:
        super().__init__()
        self.setting, self.batch = setting, batch
        self.hidden: dict[Modality, HiddenStates] = {}
        self.clean: dict[Modality, Tensor] = {}
        self.grids: dict[Modality, list[tuple[int, int]] | None] = {}
        self.history: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for modality in ("image", "text"):
                self._run_clean(modality)
        self.bottlenecks = nn.ModuleDict({m: self._new_bottleneck(m, tower) for m, tower in setting.towers.items()})
        device = self.clean["image"].device
        self.stopping = Stopping(self.pairs, setting.tolerance, setting.patience, device)
        self.terms = _named_terms(setting)
        self.noise_chunk = setting.noise_chunk
        self._before: dict[str, Tensor] = {}

    def _run_clean(self, modality: Modality) -> None:
        tower = self.setting.backbone.tower(modality)
        layer = self.setting.towers[modality].layer if modality in self.setting.towers else "embeddings"
        hidden = tower.prefix(self.batch, layer)
        self.hidden[modality], self.grids[modality] = hidden, tower.grids(self.batch)
        self.clean[modality] = tower.suffix(hidden.states[None], hidden, layer)[0].float()

    def _new_bottleneck(self, modality: Modality, tower: TowerSetting) -> InformationBottleneck:
        # On the embeddings the read-out token has not read anything yet: it is a token like any other.
        read_out = "bottleneck" if tower.layer == "embeddings" else tower.read_out
        return InformationBottleneck(self.hidden[modality], tower.prior.to(self.clean[modality].device), read_out)

    def bottleneck(self, modality: Modality) -> InformationBottleneck:
        """The bottleneck of a tower."""
        found = self.bottlenecks[modality]
        assert isinstance(found, InformationBottleneck)
        return found

    @property
    def pairs(self) -> int:
        """B, the pairs that are still in the batch."""
        return len(self.clean["image"])

    @property
    def score(self) -> Tensor:
        """(B,) cosine similarity of the clean pairs."""
        return F.cosine_similarity(self.clean["image"], self.clean["text"])

    def forward(self, step: int) -> dict[str, Tensor]:
        """One step: values per pair, (B,) each: "loss/total" with its gradient, each term unweighted as "image/<term>".

        They are kept, detached, in `history`. A pair that has stopped, or stops here because its loss is not finite,
        repeats its last values.
        """
        values, gradients = self._evaluate(step)
        total = values["loss/total"]
        self.stopping.forget(self._weights_moved(values))
        self.stopping.judge(total)
        if self.history:
            stale = ~self.stopping.running & ~(total.isfinite() & (self.stopping.updates == len(self.history)))
            values = {name: torch.where(stale, self.history[-1][name], value) for name, value in values.items()}
        self.history.append(values)
        alphas = [self.bottleneck(m).alpha for m in self.setting.towers]
        self._keep_masks(alphas)
        return {**values, "loss/total": _WithGradient.apply(values["loss/total"], *alphas, *gradients)}

    def hold_stopped(self) -> None:
        """After the optimiser's step: put the masks of pairs that have stopped back to what they were."""
        running = self.stopping.running[:, None, None]
        for modality in self.setting.towers:
            alpha = self.bottleneck(modality).alpha
            alpha.data = torch.where(running, alpha.data, self._before[modality])

    def _keep_masks(self, alphas: Sequence[Tensor]) -> None:
        """Remember masks whose loss is finite, for `hold_stopped`."""
        broken = (self.stopping.reason == 3)[:, None, None]
        for modality, alpha in zip(self.setting.towers, alphas, strict=True):
            now = alpha.detach().clone()
            self._before[modality] = torch.where(broken, self._before.get(modality, now), now)

    def _evaluate(self, step: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Values of a step, and the gradient of the summed total with respect to each tower's alpha.

        Noise samples go through the towers in chunks, each with its own backward pass, so that memory is bounded. What
        depends on the masks alone is computed once: chunks see it as leaves, whose gradients are passed on at the end.
        """
        while True:
            try:
                return self._evaluate_in_chunks(step, self._chunk())
            except torch.OutOfMemoryError as error:
                if self._chunk() == 1:
                    raise RuntimeError(
                        "Expected one noise sample of the batch to fit into memory but it does not. "
                        "Remedy: a smaller batch_size."
                    ) from error
                self.noise_chunk = max(1, self._chunk() // 2)
                warnings.warn(f"Out of memory; going on with {self.noise_chunk} noise samples at once.", stacklevel=2)

    def _chunk(self) -> int:
        """Noise samples that go through the towers at once."""
        if self.noise_chunk is not None:
            return min(self.noise_chunk, self.setting.noise.samples)
        longest = max(self.hidden[m].states.shape[1] for m in self.setting.towers)
        tokens = self.pairs * longest
        limit = TOKENS.get(self.clean["image"].device.type, TOKENS["cuda"])
        return max(1, min(self.setting.noise.samples, limit // tokens))

    def _evaluate_in_chunks(self, step: int, chunk: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        masks = {m: _Masks(self.bottleneck(m)) for m in self.setting.towers}
        samples, scale = self.setting.noise.samples, _loss_scale(self.clean["image"].device)
        weights = self._weights()
        values = {f"{name}_weight": weights[name] for name, (term, _) in self.terms.items() if term.weight_moves}
        for start in range(0, samples, chunk):
            part = slice(start, min(start + chunk, samples))
            found = self._terms(masks, weights, step, part)
            share = (part.stop - part.start) / samples
            (found["loss/total"].sum() * (share * scale)).backward()
            for name, value in found.items():
                values[name] = values.get(name, 0) + share * value.detach()
        return values, [mask.gradient(scale) for mask in masks.values()]

    def _weights(self) -> dict[str, Tensor]:
        """(B,) of each term at this step."""
        weights = {}
        for name, (term, looks_at) in self.terms.items():
            beta = self.setting.towers[looks_at[0]].beta if len(looks_at) == 1 else 1.0
            weight = term.weight_at(beta, self._past(name.split("/")[0]) if term.weight_moves else ())
            weights[name] = torch.as_tensor(weight, device=self.clean["image"].device).expand(self.pairs)
        return weights

    def _past(self, tower: str) -> list[dict[str, Tensor]]:
        """What the terms of a tower, or the joint ones, were at the steps made."""
        own = f"{tower}/"
        return [{n.removeprefix(own): v for n, v in step.items() if n.startswith(own)} for step in self.history]

    def _weights_moved(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B,) bool, the pairs whose terms are not weighed as in the step before."""
        moved = torch.zeros_like(self.stopping.running)
        for name in values if self.history else ():
            if name.endswith("_weight"):
                moved = moved | (values[name] != self.history[-1][name])
        return moved

    def _terms(
        self, masks: Mapping[Modality, _Masks], weights: Mapping[str, Tensor], step: int, part: slice
    ) -> dict[str, Tensor]:
        """Values per pair of the terms and their weighted sum, for some of the noise samples."""
        seen = {modality: self._tower_pass(modality, masks[modality], step, part) for modality in self.setting.towers}
        values = {name: term(*(seen[m] for m in looks_at)) for name, (term, looks_at) in self.terms.items()}
        total = sum(
            (weights[name] * value for name, value in values.items()), self.clean["image"].new_zeros(self.pairs)
        )
        return {"loss/total": total, **values}

    def _tower_pass(self, modality: Modality, masks: _Masks, step: int, part: slice) -> Bottlenecked:
        """One tower read through its bottleneck."""
        tower, hidden, bottleneck = self.setting.backbone.tower(modality), self.hidden[modality], masks.bottleneck
        noise = self.setting.noise(step, modality, tower.length, tower.width, masks.alpha.device)[part]
        z, grids = bottleneck(noise, masks.lambda_), self.grids[modality]
        return Bottlenecked(
            modality=modality,
            alpha=masks.alpha,
            lambda_=masks.lambda_,
            capacity=masks.capacity,
            open=bottleneck.open,
            content=bottleneck.open & ~hidden.special,
            grid=grids[0] if grids and len(set(grids)) == 1 else None,
            embedding=self.setting.suffix[modality](z, hidden, self.setting.towers[modality].layer).float(),
            clean=self.clean[modality],
            other=self.clean["text" if modality == "image" else "image"],
        )

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Means over the pairs: nats and bits per masked token and the share of closed masks (lambda_ < 1/2) of each
        modality, and how many pairs still run.
        """
        found = {"pairs/running": float(self.stopping.running.sum())}
        for modality in self.setting.towers:
            bottleneck = self.bottleneck(modality)
            tokens = bottleneck.open.sum(1)
            nats = float((bottleneck.capacity().sum((1, 2)) / tokens).mean())
            closed = ((bottleneck.alpha < 0) & bottleneck.open[..., None]).sum((1, 2)) / tokens
            found[f"{modality}/nats_per_token"] = nats
            found[f"{modality}/bits_per_token"] = nats / math.log(2)
            found[f"{modality}/closed"] = float(closed.mean()) / bottleneck.alpha.shape[2]
        return found

    @torch.no_grad()
    def image_maps(self) -> list[Tensor] | None:
        """Per pair (gh, gw) nats, the capacity of each patch summed over channels, or None if not explained."""
        grids = self.grids["image"]
        if grids is None or "image" not in self.setting.towers:
            return None
        capacity = self.bottleneck("image").capacity().sum(-1)
        # When a fit has ended, Lightning has taken the masks, but not this, off the accelerator.
        content = ~self.hidden["image"].special.to(capacity.device)
        return [row[keep].reshape(grid) for row, keep, grid in zip(capacity, content, grids, strict=True)]

    @torch.no_grad()
    def text_maps(self) -> list[Tensor] | None:
        """Per pair (L,) nats, the capacity of each token summed over channels, or None if not explained."""
        return list(self.bottleneck("text").capacity().sum(-1)) if "text" in self.setting.towers else None

    def drop_stopped(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on with the running pairs alone; the optimiser's state goes with them."""
        rows = self.stopping.running.nonzero()[:, 0]
        for modality, hidden in self.hidden.items():
            kept: Any = {name: None if field is None else field[rows] for name, field in hidden._asdict().items()}
            self.hidden[modality] = hidden._replace(**kept)
            self.clean[modality] = self.clean[modality][rows]
            grids = self.grids[modality]
            self.grids[modality] = None if grids is None else [grids[row] for row in rows.tolist()]
        for modality in self.setting.towers:
            alpha = self.bottleneck(modality).alpha
            for name, value in optimizer.state[alpha].items():
                if isinstance(value, Tensor) and value.shape == alpha.shape:
                    optimizer.state[alpha][name] = value[rows]
            self.bottleneck(modality).keep(rows)
            self._before[modality] = self._before[modality][rows]
        self.batch = self.batch.keep(rows.tolist())
        self.history = [{name: value[rows] for name, value in step.items()} for step in self.history]
        self.stopping.keep(rows)

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the masks."""
        return {"history": self.history, "stopping": self.stopping.state(), "before": self._before}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        device = self.clean["image"].device
        self.history = [{name: value.to(device) for name, value in step.items()} for step in state["history"]]
        self._before = {name: value.to(device) for name, value in state["before"].items()}
        self.stopping.load(state["stopping"])


def _named_terms(setting: FitSetting) -> dict[str, tuple[LossTerm, tuple[Modality, ...]]]:
    """The terms by what they are logged as, each with the towers that it looks at."""
    named: dict[str, tuple[LossTerm, tuple[Modality, ...]]] = {}
    for modality in setting.towers:
        own = [term for term in setting.loss_terms if not isinstance(term, JointTerm)]
        named |= {f"{modality}/{term.name}": (term, (modality,)) for term in own}
    joint = [term for term in setting.loss_terms if isinstance(term, JointTerm)]
    return named | {f"joint/{term.name}": (term, ("image", "text")) for term in joint}


class _Masks:
    """The masks of a tower during one step, as leaves that chunks of noise add their gradients to."""

    def __init__(self, bottleneck: InformationBottleneck) -> None:
        self.bottleneck = bottleneck
        with torch.enable_grad():
            self._made = (bottleneck.lambda_, bottleneck.capacity())
        self.alpha, self.lambda_, self.capacity = (
            value.detach().requires_grad_() for value in (bottleneck.alpha, *self._made)
        )

    def gradient(self, scale: float) -> Tensor:
        """(B, L, D), of all chunks, with respect to alpha."""
        leaves = (self.lambda_, self.capacity)
        reached = [(made, leaf.grad) for made, leaf in zip(self._made, leaves, strict=True) if leaf.grad is not None]
        total = torch.zeros_like(self.alpha) if self.alpha.grad is None else self.alpha.grad
        if reached:
            made, grads = zip(*reached, strict=True)
            total = total + torch.autograd.grad(made, self.bottleneck.alpha, grads)[0]
        return total / scale


class _WithGradient(torch.autograd.Function):
    """Values (B,) whose gradient is known already: grad of pair b with respect to row b of each alpha."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, *alphas_and_gradients: Tensor) -> Tensor:
        ctx.save_for_backward(*alphas_and_gradients[len(alphas_and_gradients) // 2 :])
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [grad_outputs[0][:, None, None] * gradient for gradient in ctx.saved_tensors]
        return (None, *gradients, *(None for _ in gradients))


def _loss_scale(device: torch.device) -> float:
    """A power of two that lifts gradients near 1e-6 into the range of float16 where that is computed in."""
    kind = device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return 2.0**14 if half else 1.0
