"""What hidden states are like over data: the prior that noise is drawn from and capacity is counted against."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m2ib_lightning.files import replacing
from m2ib_lightning.types import HiddenStates, Layer


@dataclass(frozen=True)
class Prior:
    """N(mean, std^2) for each channel of one layer of one tower.

    Attributes:
        mean: The mean of each channel, (D,).
        std: The standard deviation of each channel, (D,), > 0.
        read_mean: (D,), mean of the token that the head reads.
    """

    mean: Tensor
    std: Tensor
    read_mean: Tensor

    def to(self, device: torch.device) -> Prior:
        """The same on another device."""
        return Prior(self.mean.to(device), self.std.to(device), self.read_mean.to(device))


def unit_prior(width: int) -> Prior:
    """N(0, 1) for every channel, as in the paper."""
    return Prior(torch.zeros(width), torch.ones(width), torch.zeros(width))


class PriorStatistics:
    """Running sums over batches of hidden states that `prior()` turns into means and standard deviations.

    Args:
        layer: Where the states are from. At a deeper layer the token that the head reads is summed apart, since it
            is unlike all others; on the embeddings it is a token among others.
    """

    def __init__(self, layer: Layer) -> None:
        self.apart = layer != "embeddings"
        self.count = self.reads = 0
        self.total = self.squares = self.read_total = torch.zeros((), dtype=torch.float64)

    def update(self, hidden: HiddenStates) -> None:
        """Count a batch in."""
        states, valid = hidden.states.double().cpu(), hidden.valid.cpu().clone()
        if hidden.read is not None:
            rows, read = torch.arange(len(states)), hidden.read.cpu()
            self.read_total = self.read_total + states[rows, read].sum(0)
            self.reads += len(states)
            if self.apart:
                valid[rows, read] = False
        tokens = states[valid]
        self.count += len(tokens)
        self.total = self.total + tokens.sum(0)
        self.squares = self.squares + tokens.square().sum(0)

    def prior(self) -> Prior:
        """The prior of what was counted.

        Raises:
            RuntimeError: Nothing was.
        """
        if not self.count:
            raise RuntimeError("Expected hidden states to measure but got none. Remedy: call `update` first.")
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        # A channel that never varies would make every value infinite in its own units.
        std = variance.sqrt().clamp(min=float(variance.mean().sqrt()) * 1e-3 + 1e-12)
        read_mean = self.read_total / max(self.reads, 1)
        return Prior(mean.float(), std.float(), read_mean.float().expand_as(mean).clone())


def write_priors(path: str | Path, priors: dict[str, Prior], **about: str) -> None:
    """Write priors by name ("image", "text"), whole or not at all.

    Args:
        path: The file that is written.
        priors: The priors by name.
        about: What they were measured on: model hash, layers, data.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {f"{name}.{part}": of.contiguous() for name, prior in priors.items() for part, of in vars(prior).items()}
    with replacing(Path(path)) as unfinished:
        save_file(tensors, str(unfinished), metadata=about | {CHECKSUM: _checksum(tensors, about)})


def read_priors(path: str | Path) -> tuple[dict[str, Prior], dict[str, str]]:
    """Read what `write_priors` wrote: priors by name, and what they were measured on.

    Raises:
        ValueError: There is no such file, it is none of ours, or it is damaged: a value that is not finite, a standard
            deviation that is not positive, or anything that its checksum does not confirm.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"Expected `prior` to be 'unit', 'measured' or a file of measured priors but found no file {str(path)!r}. "
            "Remedy: choose one, or measure them over your pairs with `m2ib calibrate`."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
            about = dict(file.metadata() or {})
        priors = {name: Prior(**_parts(tensors, name)) for name in sorted({key.split(".")[0] for key in tensors})}
    except (SafetensorError, OSError, TypeError) as problem:
        raise _damaged(path, f"is cut short or holds something else ({problem})") from problem
    if about.pop(CHECKSUM, None) != _checksum(tensors, about):
        raise _damaged(path, "was changed, says its checksum")
    if not all(t.isfinite().all() for t in tensors.values()) or not all((p.std > 0).all() for p in priors.values()):
        raise _damaged(path, "holds values that are not finite, or deviations that are not positive")
    return priors, about


CHECKSUM = "sha256"
"""The name, in the file's metadata, of the checksum over its values and its other metadata."""


def _parts(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _checksum(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.cpu().numpy().tobytes())
    return found.hexdigest()


def _damaged(path: str | Path, how: str) -> ValueError:
    return ValueError(f"Expected priors as `m2ib calibrate` writes them but {str(path)!r} {how}. Remedy: run it again.")
