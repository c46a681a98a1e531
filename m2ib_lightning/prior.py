"""What hidden states are like over data: the prior that noise is drawn from and capacity is counted against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from m2ib_lightning.types import HiddenStates, Layer


@dataclass(frozen=True)
class Prior:
    """N(mean, std^2) for each channel of one layer of one tower.

    Attributes:
        mean: (D,).
        std: (D,), > 0.
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


def save_priors(path: str | Path, priors: dict[str, Prior], **about: str) -> None:
    """Write priors by name ("image", "text") with what they were measured on (model hash, layers, data) beside them."""
    tensors = {
        f"{name}.{part}": getattr(prior, part).contiguous()
        for name, prior in priors.items()
        for part in ("mean", "std", "read_mean")
    }
    save_file(tensors, str(path), metadata=about)


def load_priors(path: str | Path) -> tuple[dict[str, Prior], dict[str, str]]:
    """Read what `save_priors` wrote: priors by name, and what they were measured on.

    Raises:
        ValueError: There is no such file or it is none of ours.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"Expected `prior` to be 'unit', 'measured' or a file of measured priors but found no file {str(path)!r}. "
            "Remedy: choose one, or measure with `m2ib_lightning.measure_priors` and save."
        )
    with safe_open(str(path), framework="pt") as file:
        names = sorted({key.split(".")[0] for key in list(file.keys())})
        priors = {
            name: Prior(*(file.get_tensor(f"{name}.{part}") for part in ("mean", "std", "read_mean"))) for name in names
        }
        return priors, dict(file.metadata() or {})
