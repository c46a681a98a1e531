"""The contract of a loss term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from einops import rearrange, reduce
from torch import Tensor, nn

from m2ib_lightning.contracts import called, check_term
from m2ib_lightning.types import Modality


class Bottlenecked(NamedTuple):
    """One tower of a batch of pairs, read through its bottleneck at one step: all that a loss term may look at.

    Attributes:
        modality: The tower that was read.
        alpha: (B, L, D) mask logits.
        lambda_: (B, L, D) in [0, 1], sigmoid(alpha).
        capacity: (B, L, D) nats, 0 for tokens that are not masked.
        open: (B, L) bool, the tokens that are masked.
        content: (B, L) bool, the masked tokens that stand for a part of the image or text (no CLS, BOS, EOS).
        grid: (gh, gw) of the content tokens if they are cells of an image, row by row, the same for all pairs.
        embedding: (K, B, E) embeddings of the K noisy samples.
        clean: (B, E) clean embedding of the same modality.
        other: (B, E) clean embedding of the other modality.
        target: (B, E) direction that `embedding`, normalised, is measured along: `other` normalised, unless the pair is
            explained against something else, see `m2ib_lightning.targets`.
    """

    modality: Modality
    alpha: Tensor
    lambda_: Tensor
    capacity: Tensor
    open: Tensor
    content: Tensor
    grid: tuple[int, int] | None
    embedding: Tensor
    clean: Tensor
    other: Tensor
    target: Tensor


def mean_of_open(values: Tensor, is_open: Tensor) -> Tensor:
    """(B,) mean of values (B, L, D) over the channels of the tokens that are masked, (B, L) bool; 0 where none is."""
    total = reduce(values * rearrange(is_open, "b l -> b l 1"), "b l d -> b", "sum")
    return total / (is_open.sum(1).clamp(min=1) * values.shape[2])


Past = Sequence[Mapping[str, Tensor]]
"""Of each step made so far the unweighted values of a tower's terms, (B,) each, by name; empty at the first step."""

Embed = Callable[[Modality, Sequence[Any]], Tensor]
"""Clean embeddings (N, E) of captions ("text"), or of pictures or their files ("image")."""


class LossTerm(nn.Module):
    """A term of the loss: a module whose `forward` gives one unweighted value per pair.

    The method weighs it, sums it over towers and pairs, and logs it as `<modality>/<name>`. A further term is one class
    in one file, named by `class_path` in the configuration.

    Args:
        weight: What the term is multiplied by in the total.
    """

    name: str
    """How the term is logged; the class's name in lower case unless given."""

    maximised: bool = False
    """Whether more of it is better: it is then taken off the total instead of added."""

    weighed_by_beta: bool = False
    """Whether the tower's beta, the price of compression against similarity, multiplies it as well."""

    _checked: frozenset[frozenset[Modality]] = frozenset()

    forward: Callable[..., Tensor]
    """Of a `Bottlenecked`, the value per pair, (B,). Where it depends on the noise it is a mean over the samples, since
    they may come in several parts."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    def __call__(self, *towers: Bottlenecked) -> Tensor:
        """What `forward` gives; the first time for each tower it is held against the contract, which waits for a GPU.

        Raises:
            ContractError: It is not (B,), not finite for any pair, depends on no mask, or `forward` failed.
        """
        value = called(self, self.forward, *towers)
        seen = frozenset(tower.modality for tower in towers)
        if seen not in self._checked or not isinstance(value, Tensor) or value.shape != (len(towers[0].alpha),):
            check_term(self, value, towers)
            self._checked |= {seen}
        return value

    def prepare(self, embed: Embed) -> None:
        """Get ready, once before the first fit; for terms that compare with captions or pictures of their own."""


class JointTerm(LossTerm):
    """A term that looks at both towers at once: its `forward` takes that of the image and that of the text.

    It is counted once for a pair and logged as `joint/<name>`. Both modalities must be explained.
    """


class MovingTerm(LossTerm):
    """A term whose weight changes from step to step. The weight is logged as `<modality>/<name>_weight`."""

    def factor(self, past: Past) -> float | Tensor:
        """What the weight is multiplied by at this step, one number for all pairs or (B,).

        Args:
            past: What the terms of the same tower were at the steps made so far.
        """
        raise NotImplementedError
