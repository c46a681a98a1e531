"""The parts of frozen towers behind a bottleneck, as a fit runs them: in the precision that is on, perhaps compiled."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from m2ib_lightning.backbones.base import Backbone, Tower
from m2ib_lightning.backbones.transformer import TransformerTower
from m2ib_lightning.types import HiddenStates, Layer, Modality

_numbers = itertools.count()


class Suffixes:
    """Runs what is behind a bottleneck of either tower, at every step of a fit.

    Under autocast to bfloat16 it is run in a copy of the model that is in bfloat16 throughout. Nothing is then cast
    from step to step, and states between blocks take half of the memory's time. The copy is made once, at first use.
    Under autocast to float16, whose range is small, the library's own casts are left as they are.

    Args:
        backbone: The frozen model. Its weights must not change after the first use.
        compiled: Whether blocks go through `torch.compile`, each kind of block once.
    """

    def __init__(self, backbone: Backbone, compiled: bool = False) -> None:
        self.backbone, self.compiled = backbone, compiled
        self._made: dict[tuple[Modality, torch.dtype | None, torch.device], Tower] = {}
        self._lowered: dict[torch.device, Backbone] = {}

    def __call__(self, modality: Modality, states: Tensor, hidden: HiddenStates, layer: Layer) -> Tensor:
        """`Tower.suffix` of a tower, (K, B, L, D) to (K, B, E), in float32."""
        device = states.device
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        if autocast != torch.bfloat16:
            return self._tower(modality, None, device).suffix(states, hidden, layer).float()
        tower = self._tower(modality, autocast, device)
        with torch.autocast(device.type, enabled=False):
            return tower.suffix(states.to(autocast), hidden, layer).float()

    def _tower(self, modality: Modality, dtype: torch.dtype | None, device: torch.device) -> Tower:
        place = (modality, dtype, device)
        if place not in self._made:
            backbone = self.backbone if dtype is None else self._in_bfloat16(device)
            tower = backbone.tower(modality)
            # On a processor, code that torch makes of attention in bfloat16 mixes it with float32 and fails.
            compiled = self.compiled and not (device.type == "cpu" and dtype is not None)
            self._made[place] = compiled_by_block(tower) if compiled else tower
        return self._made[place]

    def _in_bfloat16(self, device: torch.device) -> Backbone:
        if device not in self._lowered:
            self._lowered[device] = copy.deepcopy(self.backbone).to(device, torch.bfloat16)
        return self._lowered[device]

    def __getstate__(self) -> dict[str, Any]:
        """Without what was made of the weights: a copy of the whole may be given others."""
        return self.__dict__ | {"_made": {}, "_lowered": {}}


def compiled_by_block(tower: Tower) -> Tower:
    """The tower, with blocks that run as compiled code which those of one kind share; compiled as a whole without any.

    Weights are handed to that code, which so is made in seconds and kept on disk by `torch.compile` for the next run.
    """
    twin, shared = copy.copy(tower), dict[str, Any]()
    blocks: list[Any] = tower.blocks if isinstance(tower, TransformerTower) else []
    if not isinstance(twin, TransformerTower) or not all(hasattr(block, "layer") for block in blocks):
        twin.suffix = torch.compile(tower.suffix)  # type: ignore[method-assign]
        return twin
    twin.blocks = []
    for block in blocks:
        kind = f"{type(block).__name__} {block.layer}"  # a module prints how it is made
        if kind not in shared:
            shared[kind] = _compiled(_Running(block))
        twin.blocks.append(_WithWeights(block, shared[kind]))
    return twin


class _Running(nn.Module):
    """A block as a module, which can be run with the weights of others."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.layer, self.block = block.layer, block

    def forward(self, *arguments: Any) -> Tensor:
        found: Tensor = self.block(*arguments)
        return found


class _WithWeights:
    """A block that runs by the code of its kind."""

    def __init__(self, block: Any, run: Callable[..., Tensor]) -> None:
        self.run = run
        self.weights = dict(block.layer.named_parameters(prefix="layer"))

    def __call__(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """New states of the queries."""
        for tensor in (queries, states):  # pairs and tokens differ from batch to batch
            torch._dynamo.maybe_mark_dynamic(tensor, (0, 1))
        return self.run(self.weights, queries, states, mask, causal)


def _compiled(kind: _Running) -> Callable[..., Tensor]:
    def run(weights: dict[str, Tensor], *arguments: Any) -> Tensor:
        found: Tensor = functional_call(kind, weights, arguments)
        return found

    # What is compiled is kept by the code object, and which sizes change is learnt by its name: each kind has its own.
    own = run.__code__.replace(co_name=f"run_{next(_numbers)}")
    made: Callable[..., Tensor] = torch.compile(FunctionType(own, globals(), closure=run.__closure__))
    return made
