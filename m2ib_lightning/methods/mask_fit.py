"""The fit of a batch of pairs: their masks, what one step computes, and what is read off at the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange, reduce, repeat
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.bottleneck import InformationBottleneck, NoiseBank, ReadOut
from m2ib_lightning.losses import Bottlenecked, JointTerm, LossTerm, MovingTerm, along
from m2ib_lightning.methods.keeping import DRAWS, Held, beta_ratio, compress_until, least
from m2ib_lightning.methods.reader import MaskReader
from m2ib_lightning.methods.stopping import NON_FINITE, Stopping
from m2ib_lightning.methods.streams import one_by_one
from m2ib_lightning.prior import Prior
from m2ib_lightning.types import MODALITIES, HiddenStates, Layer, Modality, PairBatch

HALF_OPEN = 0.7
"""What all masks are where a reader looks: noise hides no object yet, and the model no longer ignores it."""

TOKENS = {"cpu": 2048, "cuda": 65536}
"""Tokens that go through a tower at once, by device: what keeps its matrix products busy and its memory small."""


Suffix = Callable[[Tensor, HiddenStates, Layer], Tensor]
"""`Tower.suffix` in float32, see `Suffixes`."""

AnyOptimizer = torch.optim.Optimizer | LightningOptimizer
"""An optimiser, or one that Lightning has wrapped."""


class TowerSetting(NamedTuple):
    """How one tower is explained.

    Attributes:
        layer: Where its bottleneck sits.
        beta: What a nat of compression costs against similarity.
        prior: What noise is drawn from.
        read_out: What becomes of the token that the head reads.
        start: Logit that its masks start from.
        suffix: The part of the tower behind the bottleneck, as a fit runs it.
    """

    layer: Layer
    beta: float
    prior: Prior
    read_out: ReadOut
    start: float
    suffix: Suffix


class MaskFit(nn.Module):
    """Masks of a batch of pairs, and the step that fits them.

    The part of each tower before its bottleneck and the clean embeddings are computed once, here.

    Args:
        backbone: The frozen model that is explained.
        batch: The pairs that are fitted. Where it has targets, only the towers that they name are fitted.
        towers: The towers to explain, and how.
        loss_terms: The terms whose weighted sum is minimised.
        noise: The bank of noise that all batches share.
        tolerance: How little the loss may fall before a pair has converged, see `Stopping`.
        patience: How many such steps a pair is given.
        noise_chunk: Noise samples computed at once, or None for what keeps the device busy. Changes no result.
        keep: Share of the clean similarity that is to be left; the beta of a tower is then what a pair starts from.
        reader: What the masks start from, read off the pairs; alike for all of them by default.
        same: A fit of the same pairs and settings, from which what is computed of the clean pairs is taken.

    Attributes:
        history: Per step a dictionary of (B,) values, see `step`.
        stopping: Which pairs still run.
        bottlenecks: The bottleneck of each tower, by its modality.
        by_tower: Runs a function for each tower, see `streams`.
    """

    def __init__(
        self,
        backbone: Backbone,
        batch: PairBatch,
        towers: Mapping[Modality, TowerSetting],
        loss_terms: Sequence[LossTerm],
        noise: NoiseBank,
        tolerance: float | None = None,
        patience: int = 1,
        noise_chunk: int | None = None,
        keep: float | None = None,
        reader: MaskReader | None = None,
        *,
        same: MaskFit | None = None,
    ) -> None:
        super().__init__()
        if batch.targets is not None:
            towers = {modality: tower for modality, tower in towers.items() if modality in batch.targets}
        self._backbone, self._reader = [backbone], [reader]  # in lists: their weights are none of the fit's
        self.batch, self.towers, self.noise, self.noise_chunk = batch, dict(towers), noise, noise_chunk
        self.terms, self.keep = _named_terms(loss_terms, self.towers), keep
        self.by_tower: Callable[..., dict[Modality, Any]] = one_by_one
        self.hidden: dict[Modality, HiddenStates] = dict(same.hidden) if same else {}
        self.clean: dict[Modality, Tensor] = dict(same.clean) if same else {}
        self.grids: dict[Modality, list[tuple[int, int]] | None] = dict(same.grids) if same else {}
        with torch.no_grad():
            for modality in MODALITIES if same is None else ():
                self._run_clean(modality)
        self.bottlenecks = nn.ModuleDict({m: self.new_bottleneck(m, tower) for m, tower in self.towers.items()})
        self.history: list[dict[str, Tensor]] = []
        self.stopping = Stopping(self.pairs, tolerance, patience, self.clean["image"].device)
        self._before: dict[Modality, Tensor] = {}
        self._held: dict[Modality, Held] = {}
        if reader is not None:  # it looks through the bottlenecks
            self._put_to_start()

    @torch.no_grad()
    def start(self, modality: Modality) -> Tensor:
        """(B, L, D) mask logits that the fit of a tower starts from."""
        reader = self._reader[0]
        return self._opened(modality) if reader is None else self.read_masks(reader, modality)

    def _opened(self, modality: Modality) -> Tensor:
        """The same without a reader."""
        return torch.full_like(self.hidden[modality].states, self.towers[modality].start, dtype=torch.float)

    def _put_to_start(self) -> None:
        for modality in self.towers:
            self.bottleneck(modality).alpha.data.copy_(self.start(modality))

    def read_masks(self, reader: MaskReader, modality: Modality) -> Tensor:
        """(B, L, D) mask logits that a reader finds for the pairs of the batch."""
        return reader(modality, self.hidden[modality], self.pull(modality)).float()

    def pull(self, modality: Modality) -> Tensor:
        """(B, L, D), the gradient of a tower's relevance in masks that are all `HALF_OPEN`, up to a scale."""
        tower, bottleneck, hidden = self.backbone.tower(modality), self.bottleneck(modality), self.hidden[modality]
        with torch.enable_grad():
            lambda_ = torch.full_like(bottleneck.x, HALF_OPEN).requires_grad_()
            found, noise = torch.zeros_like(lambda_), self.noise(0, modality, tower.length, tower.width, lambda_.device)
            for part in noise.split(self._chunk()):
                embedding = self.towers[modality].suffix(bottleneck(part, lambda_), hidden, self.towers[modality].layer)
                relevance = along(embedding, self.target(modality)).sum() * _loss_scale(lambda_.device)
                found += torch.autograd.grad(relevance, lambda_)[0].float()
        return found

    @property
    def backbone(self) -> Backbone:
        """The frozen model that is explained."""
        return self._backbone[0]

    def _run_clean(self, modality: Modality) -> None:
        once, rows = self.batch.distinct()
        hidden, clean = self.clean_pass(modality, once)
        self.hidden[modality], self.clean[modality] = hidden.keep(rows), clean[rows]
        self.grids[modality] = self.backbone.tower(modality).grids(self.batch)

    def clean_pass(self, modality: Modality, batch: PairBatch) -> tuple[HiddenStates, Tensor]:
        """What a tower holds before its bottleneck, and its embeddings (B, E) without noise, of a batch."""
        tower = self.backbone.tower(modality)
        layer = self.towers[modality].layer if modality in self.towers else "embeddings"
        hidden = tower.prefix(batch, layer)
        return hidden, tower.finish(hidden, layer).float()

    def new_bottleneck(self, modality: Modality, tower: TowerSetting) -> InformationBottleneck:
        """A bottleneck of the hidden states as they are, its masks as they are at the start."""
        # On the embeddings the read-out token has not read anything yet: it is a token like any other.
        read_out = "bottleneck" if tower.layer == "embeddings" else tower.read_out
        prior = tower.prior.to(self.clean[modality].device)
        return InformationBottleneck(self.hidden[modality], prior, read_out, self._opened(modality))

    def bottleneck(self, modality: Modality) -> InformationBottleneck:
        """The bottleneck of a tower."""
        return cast(InformationBottleneck, self.bottlenecks[modality])

    @property
    def pairs(self) -> int:
        """B, the pairs that are still in the batch."""
        return len(self.clean["image"])

    @property
    def score(self) -> Tensor:
        """(B,) cosine similarity of the clean pairs."""
        return F.cosine_similarity(self.clean["image"], self.clean["text"])

    def target(self, modality: Modality) -> Tensor:
        """(B, E) direction that a tower's normalised embedding is measured along."""
        if self.batch.targets is None:
            return F.normalize(self.clean["text" if modality == "image" else "image"], dim=-1)
        return self.batch.targets[modality]

    def step(self, optimizer: AnyOptimizer, backward: Callable[[Tensor], None] | None = None) -> dict[str, Tensor]:
        """Make one optimisation step of the masks of every pair that still runs.

        Args:
            optimizer: The optimiser of the masks of this fit, and perhaps of others, whose gradients must be None.
            backward: What is called with the loss of each chunk of noise, such as `LightningModule.manual_backward`,
                which then sees to the scale that float16 needs; `Tensor.backward` by default.

        Returns:
            Values per pair before the update, (B,) each: "loss/total", and each term unweighted as "image/<term>". They
            are kept in `history`; a pair that has stopped repeats its last ones.
        """
        values = self.accumulate(backward)
        optimizer.step()
        optimizer.zero_grad()
        self.hold_stopped()
        return values

    def accumulate(self, backward: Callable[[Tensor], None] | None = None) -> dict[str, Tensor]:
        """The part of `step` before the update: the gradient of each mask is added to its `grad`.

        Raises:
            RuntimeError: Not even one noise sample of the batch fits into memory.
        """
        values = self._judged(self.evaluate(backward))
        self.history.append(values)
        self.keep_masks()
        self._held = {}
        return values

    def evaluate(self, backward: Callable[[Tensor], None] | None = None) -> dict[str, Tensor]:
        """The values of a step for the masks as they are; the gradient of each mask is added to its `grad`.

        Noise samples go through the towers in chunks, each with its own backward pass, so that memory is bounded.
        """
        while True:
            try:
                return self._evaluate_in_chunks(self._chunk(), backward)
            except torch.OutOfMemoryError as error:
                if self._chunk() == 1:
                    raise RuntimeError(
                        "Expected one noise sample of the batch to fit into memory but it does not. "
                        "Remedy: a smaller batch_size."
                    ) from error
                self.zero_grad()
                self.noise_chunk = max(1, self._chunk() // 2)
                warnings.warn(f"Out of memory; going on with {self.noise_chunk} noise samples at once.", stacklevel=2)

    def _evaluate_in_chunks(self, chunk: int, backward: Callable[[Tensor], None] | None) -> dict[str, Tensor]:
        samples = self.noise.samples
        # A Trainer's precision plugin scales by itself.
        scale = _loss_scale(self.clean["image"].device) if backward is None else 1.0
        weights = self._weights()
        values = {f"{name}_weight": weights[name] for name, (term, _) in self.terms.items() if _moves(term)}
        if self.keep is not None:
            values |= {
                f"{modality}/beta": tower.beta * self._beta_ratio(modality) for modality, tower in self.towers.items()
            }
        for start in range(0, samples, chunk):
            part = slice(start, min(start + chunk, samples))
            found = self._evaluate_terms(weights, part)
            share = (part.stop - part.start) / samples
            # Summed over pairs: single gradients are near Adam's epsilon, and a mean would depend on the batch.
            (backward or Tensor.backward)(found["loss/total"].sum() * (share * scale))
            for name, value in found.items():
                values[name] = values.get(name, 0) + share * value.detach()
        if scale != 1:
            for modality in self.towers:
                gradient = self.bottleneck(modality).alpha.grad
                assert gradient is not None
                gradient.div_(scale)
        return values

    def _chunk(self) -> int:
        """Noise samples that go through the towers at once."""
        if self.noise_chunk is not None:
            return min(self.noise_chunk, self.noise.samples)
        longest = max(self.hidden[m].states.shape[1] for m in self.towers)
        limit = TOKENS.get(self.clean["image"].device.type, TOKENS["cuda"])
        return max(1, min(self.noise.samples, limit // (self.pairs * longest)))

    def _weights(self) -> dict[str, Tensor]:
        """(B,) of each term at this step, its sign included."""
        weights = {}
        for name, (term, looks_at) in self.terms.items():
            weight: float | Tensor = -term.weight if term.maximised else term.weight
            if term.weighed_by_beta:
                weight = weight * self.towers[looks_at[0]].beta
                if self.batch.weights is not None:
                    weight = weight / self.batch.weights[looks_at[0]]
            elif self.keep is not None and len(looks_at) == 1:
                # Not beta times compression: Adam would go on for steps with the gradients that it remembers.
                weight = weight / self._beta_ratio(looks_at[0])
            if isinstance(term, MovingTerm):
                weight = weight * term.factor(self._past(name.split("/")[0]))
            # A number is written on the device, not copied there: a graph cannot hold a copy.
            made = weight if isinstance(weight, Tensor) else torch.full((), weight, device=self.clean["image"].device)
            weights[name] = repeat(made, "-> b", b=self.pairs) if made.ndim == 0 else made
        return weights

    def wanted(self, modality: Modality) -> Tensor:
        """(B,) similarity that is to be left through a bottleneck, with `keep`."""
        assert self.keep is not None
        return least(along(self.clean[modality], self.target(modality)), self.keep)

    def _beta_ratio(self, modality: Modality) -> Tensor:
        """(B,) by which the tower's beta is multiplied at this step, with `keep`."""
        wanted = self.wanted(modality)
        return beta_ratio(self.history[-1][f"{modality}/relevance"] if self.history else wanted, wanted)

    def _past(self, tower: str) -> list[dict[str, Tensor]]:
        """What the terms of a tower, or the joint ones, were at the steps made."""
        own = f"{tower}/"
        return [{n.removeprefix(own): v for n, v in step.items() if n.startswith(own)} for step in self.history]

    def _evaluate_terms(self, weights: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
        """Values per pair of the terms and their weighted sum, for some of the noise samples."""
        seen = self.by_tower(partial(self._tower_pass, part=part), self.towers)
        values = {name: term(*(seen[m] for m in looks_at)) for name, (term, looks_at) in self.terms.items()}
        nothing = self.clean["image"].new_zeros(self.pairs)
        return {"loss/total": sum((weights[n] * value for n, value in values.items()), nothing), **values}

    def _tower_pass(self, modality: Modality, part: slice) -> Bottlenecked:
        """One tower read through its bottleneck at this step."""
        tower, hidden, bottleneck = self.backbone.tower(modality), self.hidden[modality], self.bottleneck(modality)
        lambda_, grids = bottleneck.lambda_, self.grids[modality]
        noise = self.noise(len(self.history), modality, tower.length, tower.width, lambda_.device)[part]
        z = bottleneck(noise, lambda_)
        return Bottlenecked(
            modality=modality,
            alpha=bottleneck.alpha,
            lambda_=lambda_,
            capacity=bottleneck.capacity(),
            open=bottleneck.open,
            content=bottleneck.open & ~hidden.special,
            grid=grids[0] if grids and len(set(grids)) == 1 else None,
            embedding=self.towers[modality].suffix(z, hidden, self.towers[modality].layer),
            clean=self.clean[modality],
            other=self.clean["text" if modality == "image" else "image"],
            target=self.target(modality),
        )

    def _judged(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values, with those of stopped pairs put back to their last ones, after deciding which pairs go on."""
        if self.history:
            self.stopping.forget(self._weights_moved(values))
        self.stopping.judge(values["loss/total"])
        if not self.history:
            return values
        return self.stopping.hold_values(values, self.history[-1], len(self.history))

    def _weights_moved(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B,) bool, the pairs whose terms are not weighed as in the step before."""
        moved = torch.full_like(self.stopping.running, self.keep is not None)
        for name, (term, _) in self.terms.items():
            if _moves(term):
                moved |= values[f"{name}_weight"] != self.history[-1][f"{name}_weight"]
        return moved

    def keep_masks(self, places: Mapping[Modality, Tensor] | None = None) -> None:
        """Remember masks whose loss is finite, for `hold_stopped`.

        Args:
            places: Where, holding those of the step before; wherever there is room by default.
        """
        broken = rearrange(self.stopping.reason == NON_FINITE, "b -> b 1 1")
        for modality in self.towers:
            now = self.bottleneck(modality).alpha.detach()
            before = places[modality] if places else self._before.get(modality, now)
            kept = torch.where(broken, before, now)
            self._before[modality] = places[modality].copy_(kept) if places else kept

    def hold_stopped(self) -> None:
        """The part of `step` after the update: put the masks of pairs that have stopped back to what they were."""
        running = rearrange(self.stopping.running, "b -> b 1 1")
        for modality, before in self._before.items():
            alpha = self.bottleneck(modality).alpha
            alpha.data.copy_(torch.where(running, alpha.data, before))

    def restart(self) -> None:
        """Open all masks again and forget the steps made; what was computed of the clean pairs stays."""
        self.history, self._before, self._held = [], {}, {}
        self.stopping = Stopping(
            self.pairs, self.stopping.tolerance, self.stopping.patience, self.clean["image"].device
        )
        self._put_to_start()

    def set_up(self, towers: Mapping[Modality, TowerSetting], keep: float | None) -> None:
        """`restart` with other settings of the same towers at the same layers."""
        self.towers, self.keep = {modality: towers[modality] for modality in self.towers}, keep
        self.restart()

    def masks(self) -> list[dict[Modality, Tensor]]:
        """Copies of the mask logits, (B, L, D) by tower, of each set of masks that the fit has."""
        return [{modality: self.bottleneck(modality).alpha.detach().clone() for modality in self.towers}]

    def put_masks(self, masks: Sequence[Mapping[Modality, Tensor]]) -> None:
        """Go on from masks as `masks` gives them; a set that this fit has not is passed over."""
        for modality, alpha in masks[0].items():
            self.bottleneck(modality).alpha.data = alpha

    @torch.no_grad()
    def held(self) -> dict[Modality, Held]:
        """The masks that are the result with `keep`, after one step or more; empty without. The fit is not changed."""
        if self.keep is not None and not self._held:
            for modality in self.towers:
                alpha, look = self.bottleneck(modality).alpha.detach(), partial(self.let_through, modality)
                self._held[modality] = compress_until(look, alpha, self.wanted(modality))
        return self._held

    @torch.no_grad()
    def let_through(self, modality: Modality, alpha: Tensor) -> Held:
        """What masks of these logits leave, with the noise of the steps that would come next."""
        tower, bottleneck, hidden = self.backbone.tower(modality), self.bottleneck(modality), self.hidden[modality]
        lambda_, left = torch.sigmoid(alpha), []
        for step in range(len(self.history), len(self.history) + DRAWS[modality]):
            for noise in self.noise(step, modality, tower.length, tower.width, alpha.device).split(self._chunk()):
                z = bottleneck(noise, lambda_)
                embedding = self.towers[modality].suffix(z, hidden, self.towers[modality].layer)
                left.append(along(embedding, self.target(modality)))
        return Held.of_samples(alpha, torch.cat(left))

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Means over the pairs: nats and bits per masked token and the share of closed masks (lambda_ < 1/2) of each
        modality, and how many pairs still run.
        """
        found = {"pairs/running": float(self.stopping.running.sum())}
        for modality in self.towers:
            bottleneck = self.bottleneck(modality)
            tokens = bottleneck.open.sum(1)
            nats = float((reduce(bottleneck.capacity(), "b l d -> b", "sum") / tokens).mean())
            closed = (bottleneck.alpha < 0) & rearrange(bottleneck.open, "b l -> b l 1")
            found[f"{modality}/nats_per_token"] = nats
            found[f"{modality}/bits_per_token"] = nats / math.log(2)
            per_channel = reduce(closed.float(), "b l d -> b d", "sum") / rearrange(tokens, "b -> b 1")
            found[f"{modality}/closed"] = float(per_channel.mean())
        return found

    @torch.no_grad()
    def maps(self, modality: Modality, held: Held | None = None) -> list[Tensor] | None:
        """Per pair (gh, gw) or (L,) nats, each token's capacity summed over channels; None if not explained.

        Args:
            modality: The tower whose maps are asked for.
            held: Other masks than those that are fitted.
        """
        if modality not in self.towers:
            return None
        return self._by_pair(modality, self.nats(modality, held))

    @torch.no_grad()
    def nats(self, modality: Modality, held: Held | None = None) -> Tensor:
        """(B, L), each token's capacity summed over channels; the arguments are those of `maps`."""
        bottleneck = self.bottleneck(modality)
        # When a fit has ended, Lightning has taken the bottleneck, but not what it held, off the accelerator.
        alpha = None if held is None else held.alpha.to(bottleneck.x.device)
        return reduce(bottleneck.capacity(alpha), "b l d -> b l", "sum")

    @torch.no_grad()
    def mean_masks(self, modality: Modality) -> list[Tensor] | None:
        """The same of lambda_, its mean over a token's channels, in [0, 1]; 0 for tokens that are not masked."""
        if modality not in self.towers:
            return None
        bottleneck = self.bottleneck(modality)
        return self._by_pair(modality, reduce(bottleneck.lambda_, "b l d -> b l", "mean") * bottleneck.open)

    def _by_pair(self, modality: Modality, values: Tensor) -> list[Tensor]:
        """Values of tokens (B, L), those of an image on its grid; brought to the processor once, not pair by pair."""
        values, grids = values.cpu(), self.grids[modality]
        if grids is None:
            return list(values)
        content = values[~self.hidden[modality].special.cpu()].split([math.prod(grid) for grid in grids])
        return [row.view(grid) for row, grid in zip(content, grids, strict=True)]

    def drop_stopped(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on with the running pairs alone; the optimiser's state goes with them."""
        self.keep_rows(self.stopping.running.nonzero()[:, 0], optimizer)

    def keep_rows(self, rows: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Go on with the pairs of these indices alone, (b,), likewise."""
        for modality, hidden in self.hidden.items():
            self.hidden[modality] = hidden.keep(rows)
            self.clean[modality] = self.clean[modality][rows]
            grids = self.grids[modality]
            self.grids[modality] = None if grids is None else [grids[row] for row in rows.tolist()]
        for modality in self.towers:
            alpha = self.bottleneck(modality).alpha
            for name, value in optimizer.state[alpha].items():
                if isinstance(value, Tensor) and value.shape == alpha.shape:
                    optimizer.state[alpha][name] = value[rows]
            self.bottleneck(modality).keep(rows)
            self._before[modality] = self._before[modality][rows]
        self.batch = self.batch.keep(rows.tolist())
        self.history = [{name: value[rows] for name, value in step.items()} for step in self.history]
        self.stopping.keep(rows)
        self._held = {}

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the masks."""
        return {"history": self.history, "stopping": self.stopping.state(), "before": self._before}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        device = self.clean["image"].device
        self.history = [{name: value.to(device) for name, value in step.items()} for step in state["history"]]
        self._before = {name: value.to(device) for name, value in state["before"].items()}
        self.stopping.load(state["stopping"])


def _named_terms(
    loss_terms: Sequence[LossTerm], towers: Iterable[Modality]
) -> dict[str, tuple[LossTerm, tuple[Modality, ...]]]:
    """The terms by what they are logged as, each with the towers that it looks at."""
    own = [term for term in loss_terms if not isinstance(term, JointTerm)]
    joint = [term for term in loss_terms if isinstance(term, JointTerm)]
    named: dict[str, tuple[LossTerm, tuple[Modality, ...]]] = {
        f"{modality}/{term.name}": (term, (modality,)) for modality in towers for term in own
    }
    both = set(MODALITIES) <= set(towers)
    return named | ({f"joint/{term.name}": (term, MODALITIES) for term in joint} if both else {})


def _moves(term: LossTerm) -> bool:
    """Whether a term's weight changes during a fit."""
    return isinstance(term, MovingTerm)


def _loss_scale(device: torch.device) -> float:
    """A power of two that lifts gradients near 1e-6 into the range of float16 where that is computed in."""
    kind = device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return 2.0**14 if half else 1.0
