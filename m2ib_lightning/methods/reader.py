"""A network that reads the masks of a pair off its hidden states and one gradient, in the place of a fit.

After the readout bottleneck of Schulz et al., "Restricting the Flow: Information Bottlenecks for Attribution", ICLR
2020, which does so for image classifiers, from several layers and without a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange, reduce
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from m2ib_lightning.files import replacing
from m2ib_lightning.prior import Prior
from m2ib_lightning.types import MODALITIES, HiddenStates, Modality

FILE, CONFIGURATION = "reader.safetensors", "config.yaml"
"""The files of a trained reader's folder."""

CLOSED = -3.0
"""About where a fit leaves the logits of most masks, and an untrained network all of them."""


class Size(NamedTuple):
    """How large the network of each tower is.

    Attributes:
        width: Channels of its tokens, a multiple of 32.
        blocks: Transformer blocks.
    """

    width: int = 128
    blocks: int = 2


class TowerReader(nn.Module):
    """A small transformer over the tokens of one tower, from states and their pull on the similarity to mask logits.

    The pull alone tells what the pair is about: it is along the pair's target, so the network needs no embedding.

    Args:
        channels: D of the hidden states.
        size: Of the network.

    Attributes:
        mean: (D,) of the prior that states are counted from, as in the bottleneck.
        std: (D,) of the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.enter, self.leave = nn.Linear(2 * channels, size.width), nn.Linear(size.width, channels)
        self.norm = nn.LayerNorm(size.width)
        heads = size.width // 32
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size.width, heads, 2 * size.width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(size.blocks)
        )
        nn.init.normal_(self.leave.weight, std=0.02)
        nn.init.constant_(self.leave.bias, CLOSED)

    def forward(self, hidden: HiddenStates, pull: Tensor) -> Tensor:
        """(B, L, D) mask logits.

        Args:
            hidden: The states at the bottleneck.
            pull: (B, L, D), what more of each channel would add to the similarity, see `MaskFit.pull`; its scale,
                which differs from pair to pair, is left out.
        """
        pull = pull.float() * rearrange(hidden.valid, "b l -> b l 1")
        size = reduce(pull.square(), "b l d -> b 1 1", "sum") / reduce(hidden.valid, "b l -> b 1 1", "sum")
        x = self.enter(torch.cat([self.normalised(hidden), pull / (size / pull.shape[-1]).sqrt().clamp(min=1e-12)], -1))
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~hidden.valid)
        return self.leave(self.norm(x))

    def normalised(self, hidden: HiddenStates) -> Tensor:
        """(B, L, D), the states in units of the prior."""
        return (hidden.states.float() - self.mean) / self.std


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

    def forward(self, modality: Modality, hidden: HiddenStates, pull: Tensor) -> Tensor:
        """(B, L, D) mask logits of one tower; see `TowerReader.forward`."""
        logits: Tensor = self.towers[modality](hidden, pull)
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
            reader = cls(_towers(state, size), size, json.loads(said["setting"]))
            reader.load_state_dict(state)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise ValueError(
                f"Expected `reader` to be a folder that `m2ib train-reader` wrote but got {str(path)!r} "
                f"({' '.join(str(problem).split())[:80]}). Remedy: name that folder, or train one."
            ) from problem
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError(f"Expected finite weights but {str(file)!r} has others. Remedy: train the reader again.")
        return reader.requires_grad_(False).eval()


def new_reader(priors: Mapping[Modality, Prior], size: Size, setting: Mapping[str, Any]) -> MaskReader:
    """An untrained reader.

    Args:
        priors: Of each tower that is explained.
        size: Of the networks.
        setting: See `MaskReader`.
    """
    towers = {modality: TowerReader(len(prior.mean), size) for modality, prior in priors.items()}
    for modality, tower in towers.items():
        tower.mean.copy_(priors[modality].mean)
        tower.std.copy_(priors[modality].std)
    return MaskReader(towers, size, setting)


def _alike(one: Prior, other: Prior) -> bool:
    """Whether two priors differ by rounding alone."""
    pairs = ((one.mean, other.mean), (one.std, other.std))
    return all(torch.allclose(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-3) for a, b in pairs)


def _towers(state: Mapping[str, Tensor], size: Size) -> dict[Modality, TowerReader]:
    """Networks of the shapes that a state has."""
    means = {m: state[name] for m in MODALITIES if (name := f"towers.{m}.mean") in state}
    return {modality: TowerReader(len(mean), size) for modality, mean in means.items()}
