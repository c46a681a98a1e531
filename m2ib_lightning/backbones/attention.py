"""Multi-head attention of what a block's projections gave, for all tokens or for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from m2ib_lightning.backbones.frozen import run_linear

SHORT = 64
"""Keys of a short sequence."""

SHORT_FIRST = [
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.MATH,
]
"""Kernels for short sequences, the fastest first."""

_all_made: ContextVar[bool] = ContextVar("all_made", default=False)


@contextmanager
def keys_and_values_made() -> Iterator[None]:
    """While it is open, keys and values are made for one query too, for whoever records calls of attention."""
    token = _all_made.set(True)
    try:
        yield
    finally:
        _all_made.reset(token)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    heads: int,
    mask: Tensor | None,
    causal: bool,
    scale: float | None = None,
) -> Tensor:
    """Multi-head attention, softmax(scale q k^T) v.

    Args:
        queries: What attends, (N, Q, D).
        keys: What it is compared with, (N, L, D).
        values: What is mixed, (N, L, D).
        heads: The number of heads, which share D evenly.
        mask: A bool tensor that broadcasts to (N, 1, Q, L) and is true where a query may look.
        causal: Whether query i looks at keys 0..i only.
        scale: 1 / sqrt(D / heads) by default.

    Returns:
        (N, Q, D), before the output projection.
    """
    q, k, v = (rearrange(_exact(x), "n l (heads d) -> n heads l d", heads=heads) for x in (queries, keys, values))
    with torch.autocast(q.device.type, enabled=False), _fastest(k):
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    return rearrange(mixed.to(queries.dtype), "n heads l d -> n l (heads d)")


def attend_states(
    queries: Tensor,
    states: Tensor,
    key: nn.Module,
    value: nn.Module,
    *,
    heads: int,
    mask: Tensor | None,
    causal: bool,
    scale: float | None = None,
) -> Tensor:
    """`attend` with keys and values made of states, which are never made where one query asks.

    Per head, q (W_k x + b_k) = (W_k^T q) x + q b_k, and the last term is the same for all tokens, so that the softmax
    drops it; sum_j a_j (W_v x_j + b_v) = W_v (sum_j a_j x_j) + b_v, since the weights a_j sum to 1. Two products per
    sequence take the place of two per token.

    Args:
        queries: What attends, (N, Q, D).
        states: (N, L, D), not projected.
        key: Projects states to keys.
        value: Projects states to values.
        heads: The number of heads, which share D evenly.
        mask: A bool tensor that broadcasts to (N, 1, Q, L) and is true where a query may look.
        causal: Whether query i looks at keys 0..i only.
        scale: 1 / sqrt(D / heads) by default.

    Returns:
        (N, Q, D), before the output projection.
    """
    if _asks_once(queries, causal) and isinstance(key, nn.Linear) and type(key) is type(value) is nn.Linear:
        return _attend_once(queries, states, key.weight, value.weight, value.bias, heads=heads, mask=mask, scale=scale)
    keys, values = run_linear(key, states), run_linear(value, states)
    return attend(queries, keys, values, heads=heads, mask=mask, causal=causal, scale=scale)


def attend_fused(
    states: Tensor,
    asked: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    heads: int,
    mask: Tensor | None,
    causal: bool,
    scale: float | None = None,
) -> Tensor:
    """The same with one projection to queries, keys and values.

    Args:
        states: What is compared with and mixed, (N, L, D).
        asked: (N, Q, D), the states to make queries of.
        weight: (3 D, D), of queries, keys and values in this order.
        bias: (3 D,) or None.
        heads: The number of heads, which share D evenly.
        mask: A bool tensor that broadcasts to (N, 1, Q, L) and is true where a query may look.
        causal: Whether query i looks at keys 0..i only.
        scale: 1 / sqrt(D / heads) by default.

    Returns:
        (N, Q, D), before the output projection.
    """
    width = states.shape[-1]
    queries = F.linear(asked, weight[:width], None if bias is None else bias[:width])
    if _asks_once(queries, causal):
        key, value = weight[width:].chunk(2)
        return _attend_once(
            queries,
            states,
            key,
            value,
            None if bias is None else bias[2 * width :],
            heads=heads,
            mask=mask,
            scale=scale,
        )
    keys, values = F.linear(states, weight[width:], None if bias is None else bias[width:]).chunk(2, -1)
    return attend(queries, keys, values, heads=heads, mask=mask, causal=causal, scale=scale)


def _asks_once(queries: Tensor, causal: bool) -> bool:
    # Compiled code is made for fits alone, in which nobody records.
    return queries.shape[1] == 1 and not causal and (torch.compiler.is_compiling() or not _all_made.get())


def _attend_once(
    query: Tensor,
    states: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor | None,
    *,
    heads: int,
    mask: Tensor | None,
    scale: float | None = None,
) -> Tensor:
    """Attention of one query (N, 1, D) a sequence without making keys and values, see `attend_states`."""
    q = rearrange(_exact(query), "n 1 (heads d) -> n heads d", heads=heads)
    x = states.to(q.dtype)
    to_keys, to_values = (
        rearrange(w.to(q.dtype), "(heads d) width -> heads d width", heads=heads) for w in (key_weight, value_weight)
    )
    with torch.autocast(q.device.type, enabled=False):
        asked = einsum(q, to_keys, "n heads d, heads d width -> n heads width")
        asked = asked * (q.shape[-1] ** -0.5 if scale is None else scale)
        logits = einsum(asked, x, "n heads width, n l width -> n heads l")
        if mask is not None:
            logits = logits.masked_fill(~rearrange(mask, "n heads 1 l -> n heads l"), -torch.inf)
        weights = logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        seen = einsum(weights, x, "n heads l, n l width -> n heads width")
        mixed = einsum(seen, to_values, "n heads width, heads d width -> n heads d")
        mixed = rearrange(mixed.to(query.dtype), "n heads d -> n 1 (heads d)")
    return mixed if value_bias is None else mixed + value_bias


def _fastest(keys: Tensor) -> AbstractContextManager[Any]:
    """A GPU's kernel for so many keys; by itself torch takes one that is made for long sequences.

    Forward and backward of 2,048 sequences of 50 tokens, 12 heads of width 64, take in bfloat16 on an H200 1.19 ms by
    the efficient kernel, 1.79 by cuDNN's, which torch takes, 2.86 as compiled matrix products, 3.16 by the flash one.
    """
    return sdpa_kernel(SHORT_FIRST, set_priority=True) if keys.is_cuda and keys.shape[2] <= SHORT else nullcontext()


def _exact(x: Tensor) -> Tensor:
    """On processors the backward pass of attention in half precision is many times slower than in float32."""
    return x.float() if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) else x
