"""A fit as two CUDA graphs, the clean pass and a step: a GPU then waits for nothing between their kernels."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Hashable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data.loading import PINNING
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.methods.stopping import Stopping
from m2ib_lightning.methods.streams import Streams
from m2ib_lightning.types import MODALITIES, Modality, PairBatch

TEXT_MULTIPLE = 8
"""Texts are padded to a multiple of so many tokens, so that batches share graphs."""

GRAPHS_KEPT = 3
"""Shapes of batches whose graphs are kept, each with its memory: 2 GB for 128 pairs of a ViT-B/32."""

INPUTS = ("pixel_values", "input_ids", "attention_mask")
"""What a model reads of a batch."""


class FixedNoise:
    """A noise bank whose samples stay at one place of memory; `fill` puts those of a step there."""

    def __init__(self, fit: MaskFit) -> None:
        self.bank, self.samples, self.step = fit.noise, fit.noise.samples, 0
        self.places: dict[Modality, tuple[int, int]] = {
            m: (fit.backbone.tower(m).length, fit.backbone.tower(m).width) for m in fit.towers
        }
        self.device = fit.clean["image"].device
        self.now = {m: self.bank(0, m, *place, self.device).clone() for m, place in self.places.items()}

    def __call__(self, step: int, modality: Modality, length: int, width: int, device: torch.device) -> Tensor:
        """The samples that are there, (K, length, width)."""
        return self.now[modality]

    def fill(self, step: int) -> None:
        """Put the samples of a step there."""
        for modality, place in self.places.items():
            self.now[modality].copy_(self.bank(step, modality, *place, self.device))


class CapturedSteps:
    """The clean pass and the step of fits of one shape, recorded once and replayed for every batch of that shape.

    All that they read and write stays at one place of memory: another batch is copied there. The numbers are those
    of a `MaskFit` and its `step`; pairs that have stopped are held and not dropped.

    Args:
        fit: The first fit; it becomes the place where all others are made.
        optimizer: Of its masks. A graph needs one that is `capturable`, as Adam is.
        graph: Whether to record a CUDA graph; without, the same code runs eagerly, on any device.

    Raises:
        RuntimeError: The steps cannot be recorded.
    """

    def __init__(self, fit: MaskFit, optimizer: torch.optim.Optimizer, graph: bool = True) -> None:
        self.fit, self.optimizer = fit, optimizer
        self.noise = FixedNoise(fit)
        fit.noise = self.noise  # type: ignore[assignment]
        fit.towers = {m: tower._replace(prior=tower.prior.to(self.noise.device)) for m, tower in fit.towers.items()}
        self.stopping = fit.stopping.state()
        self.before = {m: fit.bottleneck(m).alpha.detach().clone() for m in fit.towers}
        self.made = torch.zeros((), dtype=torch.long, device=self.noise.device)
        self.last: dict[str, Tensor] = {}
        self._replay: Callable[[], None] = self._step
        self._replay_clean: Callable[[], None] = self._run_clean
        # Inputs at a place of their own: what was given here may be overwritten by who made it.
        self.inputs = fit.batch._replace(**{name: getattr(fit.batch, name).clone() for name in INPUTS})
        if graph:
            fit.by_tower = Streams(self.noise.device)
            for group in optimizer.param_groups:
                if "capturable" not in group:
                    raise RuntimeError(f"{type(optimizer).__name__} has no `capturable`")
                group["capturable"] = True
                if group.get("fused", False) is None and not group.get("foreach"):  # one kernel where nothing is said
                    group["fused"] = True
            self._replay = _recorded(self._step)
            # A tower whose forward cannot be recorded is run operation by operation; its steps may be recorded yet.
            with contextlib.suppress(RuntimeError, torch.AcceleratorError):
                self._replay_clean = _recorded(self._run_clean)

    def run(self, batch: PairBatch, steps: int) -> MaskFit:
        """Fit the masks of a batch of the same shape.

        Args:
            batch: The pairs, `shape_of` which is that of the first fit's.
            steps: How many steps, >= 1.

        Returns:
            The fit after its steps; valid until the next call.
        """
        self._load(batch)
        history = []
        for step in range(steps):
            self.noise.fill(step)
            self._replay()
            history.append({name: value.clone() for name, value in self.last.items()})
        self.fit.history = history
        return self.fit

    def _step(self) -> None:
        fit = self.fit
        fit.history = []
        values = fit.evaluate()
        fit.stopping.judge(values["loss/total"])
        if not self.last:
            self.last = {name: torch.zeros_like(value) for name, value in values.items()}
        held = fit.stopping.hold_values(values, self.last, self.made)
        for name, value in held.items():
            self.last[name].copy_(value)
        fit.keep_masks(self.before)
        self.optimizer.step()
        self.optimizer.zero_grad()
        fit.hold_stopped()
        self.made += 1
        for name, value in fit.stopping.state().items():
            self.stopping[name].copy_(value)
        fit.stopping.load(self.stopping)

    @torch.no_grad()
    def _run_clean(self) -> None:
        """The clean pass of the inputs that are there, and masks that are all open again."""
        fit = self.fit
        seen = fit.by_tower(partial(fit.clean_pass, batch=self.inputs), MODALITIES)
        for modality, (hidden, clean) in seen.items():
            fit.clean[modality].copy_(clean)
            for place, value in zip(fit.hidden[modality], hidden, strict=True):
                if place is not None and value is not None:
                    place.copy_(value)
        for modality, tower in fit.towers.items():
            here, there = fit.bottleneck(modality), fit.new_bottleneck(modality, tower)
            for name, value in there.named_buffers():
                here.get_buffer(name).copy_(value)
            here.alpha.copy_(there.alpha)
            self.before[modality].copy_(there.alpha)

    def _load(self, batch: PairBatch) -> None:
        """Put another batch where the first was, and begin anew."""
        fit = self.fit
        for name in INPUTS:
            getattr(self.inputs, name).copy_(getattr(batch, name))
        for given, other in zip(_given(fit.batch), _given(batch), strict=True):
            given.copy_(other)
        fit.batch = batch._replace(targets=fit.batch.targets, weights=fit.batch.weights)
        fit.grids = {modality: fit.backbone.tower(modality).grids(batch) for modality in MODALITIES}
        self._replay_clean()
        fresh = Stopping(fit.pairs, fit.stopping.tolerance, fit.stopping.patience, self.noise.device)
        for name, value in fresh.state().items():
            self.stopping[name].copy_(value)
        fit.stopping.load(self.stopping)
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
        self.made.zero_()


def shape_of(backbone: Backbone, batch: PairBatch) -> Hashable:
    """What two batches must have in common to share a graph."""
    device = backbone.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    grids = set(backbone.image.grids(batch) or ())
    return (
        batch.pixel_values.shape,
        batch.input_ids.shape,
        tuple(batch.targets or ()),
        tuple(batch.weights or ()),
        grids.pop() if len(grids) == 1 else None,
        precision,
    )


def _given(batch: PairBatch) -> list[Tensor]:
    """What a step reads of a batch beside its clean pairs: targets, and what compression weighs."""
    return [*(batch.targets or {}).values(), *(batch.weights or {}).values()]


def _recorded(run: Callable[[], None]) -> Callable[[], None]:
    """What a function does as a graph, after a few eager calls that let libraries settle."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), _uncached_autocast(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*capturable.*")  # it runs uncaptured here, and is meant to
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Nobody else may speak to the GPU: a replay crashed where another thread had pinned the batches that workers read.
    with PINNING, _no_garbage_collected():
        with torch.cuda.graph(graph, capture_error_mode="thread_local"), _uncached_autocast():
            run()
        graph.replay()  # brings it to the GPU
        torch.cuda.synchronize()
    return graph.replay


@contextlib.contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """Nobody collects garbage meanwhile: a graph in it, destroyed while another is recorded, breaks that one."""
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def pad_texts(batch: PairBatch, longest: int) -> PairBatch:
    """The batch with its texts padded to a multiple of `TEXT_MULTIPLE` tokens; no result depends on it.

    Args:
        batch: The pairs whose texts are padded.
        longest: The most tokens that the tower reads.
    """
    length = batch.input_ids.shape[1]
    more = min(longest, -(-length // TEXT_MULTIPLE) * TEXT_MULTIPLE) - length
    if more <= 0:
        return batch
    ids, mask = F.pad(batch.input_ids, (0, more)), F.pad(batch.attention_mask, (0, more))
    return batch._replace(input_ids=ids, attention_mask=mask)


def fill_batch(batch: PairBatch) -> PairBatch:
    """The batch with its last pair repeated up to the next power of two; those are computed for nothing."""
    count = len(batch.tokens)
    more = (1 << (count - 1).bit_length()) - count
    return batch.keep([*range(count), *[count - 1] * more]) if more else batch


@contextlib.contextmanager
def _uncached_autocast() -> Iterator[None]:
    """The autocast that is on, without its cache of weights, which a graph must not hold."""
    on, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with torch.autocast("cuda", dtype, enabled=on, cache_enabled=False):
        yield
