"""The information bottleneck: noise injected into hidden states through a trainable mask, and what it lets through.

Source: Wang, Rudner, Wilson, "Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck
Attribution", NeurIPS 2023 (arXiv 2312.17174), after Schulz et al., "Restricting the Flow", ICLR 2020.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from m2ib_lightning.prior import Prior
from m2ib_lightning.types import MODALITIES, HiddenStates, Modality

ReadOut = Literal["bottleneck", "mean", "clean"]
"""What becomes of the token that the head reads: masked like any other, held at its mean over data, or left alone."""

INITIAL_ALPHA = 5.0
"""Masks of the paper start nearly open: sigmoid(5) = 0.993."""


def gaussian_capacity(x: Tensor, alpha: Tensor) -> Tensor:
    """Information in nats that each element lets through, KL[N(lambda_ x, (1 - lambda_)^2) || N(0, 1)].

    With lambda_ = sigmoid(alpha) it is ((lambda_ x)^2 + (1 - lambda_)^2 - 1) / 2 - log(1 - lambda_), the logarithm
    taken as logsigmoid(-alpha), which stays finite where 1 - lambda_ underflows.

    Args:
        x: Values in units of the prior, any shape.
        alpha: Mask logits that broadcast with `x`.

    Returns:
        Nats, >= 0, of the broadcast shape; 0 where the mask is closed.

    Example:
        >>> gaussian_capacity(torch.tensor(0.0), torch.tensor(0.0))  # lambda_ 1/2: (1/4 - 1) / 2 + log 2
        tensor(0.3181)
    """
    kept, lost = torch.sigmoid(alpha) * x, torch.sigmoid(-alpha)
    return 0.5 * (kept.square() + lost.square() - 1) - F.logsigmoid(-alpha)


class NoiseBank:
    """Standard normal noise that depends on (seed, step, modality) only, never on the batch.

    Every pair of every batch sees the same samples, cut to its length, so that a pair's attribution does not depend on
    which pairs it was computed with.

    Args:
        seed: The seed that the noise is drawn from.
        samples: K, noise samples a step.
        antithetic: Whether the second half of the samples is the first half negated, which cancels the part of the
            noise's effect that is odd in it.
    """

    def __init__(self, seed: int, samples: int, antithetic: bool = False) -> None:
        self.seed, self.samples, self.antithetic = seed, samples, antithetic
        self._kept: dict[tuple[int, str, int, int, torch.device], Tensor] = {}

    @cached_property
    def half(self) -> NoiseBank:
        """A bank of half as many samples, one at least."""
        return NoiseBank(self.seed, max(1, self.samples // 2), self.antithetic)

    def __call__(self, step: int, modality: Modality, length: int, width: int, device: torch.device) -> Tensor:
        """Noise of one step, (K, length, width) float32; `length` is the model's full one. Kept for the next batch."""
        key = (step, modality, length, width, device)
        if key not in self._kept:
            if sum(noise.nbytes for noise in self._kept.values()) > 2**26:
                self._kept.clear()
            seeds = np.random.SeedSequence((self.seed, step, MODALITIES.index(modality)))
            generator = torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
            drawn = (self.samples + 1) // 2 if self.antithetic else self.samples
            noise = torch.randn(drawn, length, width, generator=generator)
            if self.antithetic:
                noise = torch.cat([noise, -noise[: self.samples - drawn]])
            self._kept[key] = noise.to(device)
        return self._kept[key]


class InformationBottleneck(nn.Module):
    """Trainable masks over the hidden states of a batch of pairs, one per token and channel.

    With x = (h - mean) / std of the prior, z_k = mean + std (lambda_ x + (1 - lambda_) eps_k).

    Args:
        hidden: The states to be masked.
        prior: Mean and standard deviation of each channel, and the mean of the token that the head reads.
        read_out: What becomes of the token that the head reads, if there is one.
        alpha: (B, L, D) logits that the masks start from, nearly open by default.

    Attributes:
        alpha: The mask logits; the only parameter.
        open: (B, L) bool, the tokens that are masked; the others (padding, a read-out token that is held) have no
            capacity and no part in any mean.
    """

    x: Tensor
    mean: Tensor
    std: Tensor
    open: Tensor
    held: Tensor | None

    def __init__(
        self,
        hidden: HiddenStates,
        prior: Prior,
        read_out: ReadOut = "bottleneck",
        alpha: Tensor | None = None,
    ) -> None:
        super().__init__()
        states = hidden.states.float()
        self.alpha = nn.Parameter(torch.full_like(states, INITIAL_ALPHA) if alpha is None else alpha)
        is_open, held = hidden.valid.clone(), None
        if hidden.read is not None and read_out != "bottleneck":
            rows = torch.arange(len(states), device=states.device)
            mean = repeat(prior.read_mean, "d -> b d", b=len(states))
            held = mean.clone() if read_out == "mean" else states[rows, hidden.read]
            is_open.scatter_(1, rearrange(hidden.read, "b -> b 1"), False)
        self.read = hidden.read
        for name, value in (
            ("x", (states - prior.mean) / prior.std),
            ("mean", prior.mean),
            ("std", prior.std),
            ("open", is_open),
            ("held", held),
        ):
            self.register_buffer(name, value, persistent=False)

    @property
    def lambda_(self) -> Tensor:
        """(B, L, D) in [0, 1], the share of the signal that is let through."""
        return torch.sigmoid(self.alpha)

    def keep(self, rows: Tensor) -> None:
        """Forget all pairs but those of the given indices; `alpha` stays the same parameter."""
        self.alpha.grad = None
        self.alpha.data = self.alpha.data[rows]
        self.x, self.open = self.x[rows], self.open[rows]
        self.read = None if self.read is None else self.read[rows]
        self.held = None if self.held is None else self.held[rows]

    def capacity(self, alpha: Tensor | None = None) -> Tensor:
        """(B, L, D) nats, 0 for tokens that are not masked; of the masks as they are, or of other logits."""
        return gaussian_capacity(self.x, self.alpha if alpha is None else alpha) * rearrange(self.open, "b l -> b l 1")

    def forward(self, noise: Tensor, lambda_: Tensor | None = None) -> Tensor:
        """Hidden states with noise through the masks.

        Args:
            noise: (K, >= L, D), standard normal.
            lambda_: (B, L, D), the masks if they are at hand.

        Returns:
            (K, B, L, D).
        """
        noise = rearrange(noise[:, : self.x.shape[1]], "k l d -> k 1 l d")
        z = self.mean + self.std * torch.lerp(noise, self.x, self.lambda_ if lambda_ is None else lambda_)
        if self.held is not None and self.read is not None:
            z[:, torch.arange(z.shape[1], device=z.device), self.read] = self.held
        return z
