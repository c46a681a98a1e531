"""Attention weights of a model while it runs, for methods that explain by attention.

Nothing is registered on the model: for as long as the record is open, `scaled_dot_product_attention` computes the same
result through explicit weights, which are kept in the graph. Any model whose blocks call that function can be read.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from m2ib_lightning.backbones.attention import keys_and_values_made
from m2ib_lightning.errors import UnsuitedModel
from m2ib_lightning.methods.objective import Objective


class Attended(NamedTuple):
    """One call of attention: q queries over l tokens, in heads of width d.

    Attributes:
        query: (b, heads, q, d); q is l, or 1 where a block computes the token that the head reads and no other.
        key: (b, heads, l, d).
        value: (b, heads, l, d).
        weights: (b, heads, q, l); rows sum to 1.
        output: (b, heads, q, d), weights @ value.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor
    output: Tensor


class AttentionRecord(TorchFunctionMode):
    """Keeps every call of `scaled_dot_product_attention` while it is open, in `calls`, with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Attended] = []
        self._open = ExitStack()

    def __enter__(self) -> AttentionRecord:
        self._open.enter_context(keys_and_values_made())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._open.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.calls.append(attended(*args, **(kwargs or {})))
        return self.calls[-1].output


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Attended:
    """`scaled_dot_product_attention` with its weights, which require a gradient where gradients are on.

    Raises:
        UnsuitedModel: Dropout or grouped queries are asked for.
    """
    if dropout_p or enable_gqa:
        raise UnsuitedModel("Expected attention without dropout and grouped queries. Remedy: choose another method.")
    logits = einsum(query, key, "b heads q d, b heads l d -> b heads q l")
    logits = logits * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    weights = logits.softmax(-1)
    if torch.is_grad_enabled() and not weights.requires_grad:
        weights.requires_grad_()
    return Attended(query, key, value, weights, weights @ value)


def attention_of(objective: Objective) -> tuple[Tensor, list[Attended]]:
    """The cosine similarities (b,) of the clean pairs and what each block of the tower attended to, in order.

    Raises:
        UnsuitedModel: The tower has no read-out token, or does not attend once in each block.
    """
    with AttentionRecord() as record:
        score = objective.of_states(
            rearrange(objective.hidden.states, "b l d -> 1 b l d"), objective.hidden, "embeddings"
        )[0]
    if objective.hidden.read is None:
        raise UnsuitedModel(
            f"Expected the {objective.modality} tower's head to read one token, whose attention this method takes, "
            f"but it reads {objective.tower.reads}. Remedy: choose a method that does not look at attention, or LeGrad."
        )
    if len(record.calls) != objective.tower.depth:
        raise UnsuitedModel(
            f"Expected a {objective.modality} tower that attends once in each of its {objective.tower.depth} blocks "
            f"and whose head reads one token, but it attended {len(record.calls)} times. "
            "Remedy: choose a method that does not look at attention."
        )
    return score, record.calls


def identity(objective: Objective) -> Tensor:
    """A unit matrix for each pair, (b, l, l): no token has attended to another yet."""
    batch, length = objective.content.shape
    return repeat(torch.eye(length, device=objective.clean.device), "q l -> b q l", b=batch)


def carried(rows: Tensor, flow: Tensor, objective: Objective) -> Tensor:
    """The rows (b, l, l) that a block's `flow` (b, q, l) is added to: all, or the read-out token's if q is 1."""
    return rearrange(read_rows(rows, objective), "b l -> b 1 l") if flow.shape[1] == 1 else rows


def read_rows(rows: Tensor, objective: Objective) -> Tensor:
    """Of rows (b, ..., q, x), that of the token that the head reads, (b, ..., x)."""
    if rows.shape[-2] == 1:
        return rows.squeeze(-2)
    assert objective.hidden.read is not None
    index = objective.hidden.read.view(-1, *[1] * (rows.ndim - 1))
    return rows.take_along_dim(index, dim=-2).squeeze(-2)
