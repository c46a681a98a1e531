"""A network that reads the masks of a pair off its hidden states, in one pass, in the place of a fit.

After the readout bottleneck of Schulz et al., "Restricting the Flow: Information Bottlenecks for Attribution", ICLR
2020, which does so for image classifiers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from m2ib_lightning.files import replacing
from m2ib_lightning.prior import Prior
from m2ib_lightning.types import MODALITIES, HiddenStates, Modality

FILE, CONFIGURATION = "reader.safetensors", "config.yaml"
"""The files of a trained reader's folder."""


class Size(NamedTuple):
    """How large the network of each tower is.

    Attributes:
        width: Channels of its tokens, a multiple of 32.
        blocks: Transformer blocks.
    """

    width: int = 128
    blocks: int = 2


class TowerReader(nn.Module):
    """A small transformer over the tokens of one tower, each block of it scaled and shifted by what the pair is about.

    Args:
        channels: D of the hidden states.
        embedding: E of the shared space.
        size: Of the network.

    Attributes:
        mean: (D,) of the prior that states are counted from, as in the bottleneck.
        std: (D,) of the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, embedding: int, size: Size) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.enter, self.leave = nn.Linear(channels, size.width), nn.Linear(size.width, channels)
        self.norm = nn.LayerNorm(size.width)
        self.about = nn.Linear(2 * embedding, (size.blocks + 1) * 2 * size.width)
        heads = size.width // 32
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size.width, heads, 2 * size.width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(size.blocks)
        )
        nn.init.normal_(self.leave.weight, std=0.02)
        nn.init.zeros_(self.leave.bias)

    def forward(self, hidden: HiddenStates, clean: Tensor, target: Tensor) -> Tensor:
        """(B, L, D) mask logits.

        Args:
            hidden: The states at the bottleneck.
            clean: (B, E), what the tower embeds the pair's own input as.
            target: (B, E), the direction that its relevance is measured along.
        """
        x = self.enter((hidden.states.float() - self.mean) / self.std)
        # In units in which each number of a direction is near 1.
        about = self.about(torch.cat([F.normalize(e, dim=-1) * e.shape[-1] ** 0.5 for e in (clean, target)], -1))
        changes = rearrange(about, "b (n two w) -> n two b 1 w", two=2, w=x.shape[-1])
        for block, (scale, shift) in zip([*self.blocks, self.norm], changes, strict=True):
            x = x * (1 + scale) + shift
            x = block(x) if block is self.norm else block(x, src_key_padding_mask=~hidden.valid)
        return self.leave(x)


class MaskReader(nn.Module):
    """The networks of the towers that are explained, and what they were trained for.

    Args:
        towers: By modality the network.
        size: Of each.
        setting: What masks mean only with: the model's hash, layers, betas, ... A fit with another one is refused.

    Attributes:
        towers: By modality.
    """

    def __init__(self, towers: Mapping[Modality, TowerReader], size: Size, setting: Mapping[str, Any]) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({str(modality): tower for modality, tower in towers.items()})
        self.size, self.setting = size, dict(setting)

    def forward(self, modality: Modality, hidden: HiddenStates, clean: Tensor, target: Tensor) -> Tensor:
        """(B, L, D) mask logits of one tower; see `TowerReader.forward`."""
        logits: Tensor = self.towers[modality](hidden, clean, target)
        return logits

    def check(self, setting: Mapping[str, Any], priors: Mapping[Modality, Prior]) -> None:
        """Refuse to read masks for another model or setting than those that the reader was trained with.

        Raises:
            ValueError: They differ, with each difference.
        """
        wrong = [
            f"{name} {self.setting.get(name)!r} and not {value!r}"
            for name, value in setting.items()
            if self.setting.get(name) != value
        ]
        for modality, prior in priors.items():
            own = cast(TowerReader, self.towers[modality]) if not wrong else None
            if own is not None and not _alike(Prior(own.mean, own.std, prior.read_mean), prior):
                wrong.append(f"another prior of the {modality}")
        if wrong:
            raise ValueError(
                f"Expected a reader of masks for this model and setting but it was trained for {'; '.join(wrong)}. "
                f"Remedy: --config {CONFIGURATION} of its folder, or `m2ib train-reader` for this one."
            )

    def save(self, folder: Path) -> None:
        """Write the reader's file to a folder, whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        said = {"size": json.dumps(self.size), "setting": json.dumps(self.setting)}
        with replacing(folder / FILE) as unfinished:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, str(unfinished), said)

    @classmethod
    def load(cls, path: str | Path) -> MaskReader:
        """The reader that `save` wrote; tensors and plain values are read, nothing is run.

        Args:
            path: Its folder, or the file in it.

        Raises:
            ValueError: There is none, or it is damaged.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            with safe_open(str(file), framework="pt") as opened:
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
                said = opened.metadata()
            size = Size(*json.loads(said["size"]))
            reader = cls({m: _shaped(state, m, size) for m in _modalities(state)}, size, json.loads(said["setting"]))
            reader.load_state_dict(state)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise ValueError(
                f"Expected `reader` to be a folder that `m2ib train-reader` wrote but got {str(path)!r} "
                f"({' '.join(str(problem).split())[:80]}). Remedy: name that folder, or train one."
            ) from problem
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError(f"Expected finite weights but {str(file)!r} has others. Remedy: train the reader again.")
        return reader.requires_grad_(False).eval()


def new_reader(priors: Mapping[Modality, Prior], embedding: int, size: Size, setting: Mapping[str, Any]) -> MaskReader:
    """An untrained reader.

    Args:
        priors: Of each tower that is explained.
        embedding: E of the shared space.
        size: Of the networks.
        setting: See `MaskReader`.
    """
    towers = {modality: TowerReader(len(prior.mean), embedding, size) for modality, prior in priors.items()}
    for modality, tower in towers.items():
        tower.mean.copy_(priors[modality].mean)
        tower.std.copy_(priors[modality].std)
    return MaskReader(towers, size, setting)


def _alike(one: Prior, other: Prior) -> bool:
    """Whether two priors differ by rounding alone."""
    pairs = ((one.mean, other.mean), (one.std, other.std))
    return all(torch.allclose(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-3) for a, b in pairs)


def _modalities(state: Mapping[str, Tensor]) -> list[Modality]:
    """The towers that a state is of."""
    return [m for m in MODALITIES if f"towers.{m}.mean" in state]


def _shaped(state: Mapping[str, Tensor], modality: Modality, size: Size) -> TowerReader:
    """A network of the shapes that a state has."""
    channels, both = len(state[f"towers.{modality}.mean"]), state[f"towers.{modality}.about.weight"].shape[1]
    return TowerReader(channels, both // 2, size)
