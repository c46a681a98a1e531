"""Transformer towers cut in two at a block, whatever library the blocks are from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from einops import rearrange, repeat
from torch import Tensor

from m2ib_lightning.backbones.attention import attend, attend_states
from m2ib_lightning.backbones.base import Tower
from m2ib_lightning.backbones.frozen import run_linear, run_linears, run_mlp
from m2ib_lightning.types import HiddenStates, Layer, PairBatch


class Block(Protocol):
    """One block of a transformer: new states of some tokens, read from the states of all."""

    def __call__(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """New states of the queries.

        Args:
            queries: (N, Q, D), states of the tokens to go on with; `states` itself for all of them.
            states: (N, L, D); keys and values are made of them.
            mask: Broadcasts to (N, 1, Q, L), true where a query may look; None for everywhere.
            causal: Whether query i looks at keys 0..i only.

        Returns:
            (N, Q, D).
        """


class PreNormBlock:
    """A block of CLIP's kind: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        layer: A module with `layer_norm1`, `self_attn.{q,k,v,out}_proj`, `layer_norm2` and `mlp`.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """New states of the queries."""
        layer = self.layer
        normed = layer.layer_norm1(states)
        asked = normed if queries is states else layer.layer_norm1(queries)
        queries = queries + self.attention(asked, normed, mask, causal)
        return queries + run_mlp(layer.mlp, layer.layer_norm2(queries))

    def attention(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attention of normalised states, (N, Q, D) and (N, L, D) to (N, Q, D)."""
        own = self.layer.self_attn
        how: Any = dict(heads=own.num_heads, mask=mask, causal=causal, scale=own.scale)
        if queries is states:
            mixed = attend(*run_linears((own.q_proj, own.k_proj, own.v_proj), states), **how)
        else:
            mixed = attend_states(run_linear(own.q_proj, queries), states, own.k_proj, own.v_proj, **how)
        return run_linear(own.out_proj, mixed)


class PostNormBlock:
    """A block of BERT's kind: norm(x + attention(x)), then norm(x + mlp(x)).

    Args:
        layer: A module with `attention.self.{query,key,value}`, `attention.output`, `intermediate` and `output`.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """New states of the queries."""
        layer, own = self.layer, self.layer.attention.self
        mixed = attend_states(
            own.query(queries), states, own.key, own.value, heads=own.num_attention_heads, mask=mask, causal=causal
        )
        queries = layer.attention.output(mixed, queries)
        return layer.output(layer.intermediate(queries), queries)


class TransformerTower(Tower):
    """A stack of blocks between embeddings and a head; a further tower implements `embeddings` and `head`.

    If the head reads one token (`HiddenStates.read`), the last block computes that token only, which is exact: the
    other tokens are keys and values there and nothing looks at what becomes of them.

    Args:
        blocks: The blocks of the stack, in their order.
        width: D, the channels of a hidden state.
        length: The largest number of tokens that it reads.
        causal: Whether a token looks at the ones before it only.
        masked: Whether tokens that are not `valid` are hidden from the others. Not needed with `causal`, where padding
            stands behind every token that counts.
    """

    def __init__(
        self, blocks: Sequence[Block], width: int, length: int, *, causal: bool = False, masked: bool = False
    ) -> None:
        self.blocks, self.causal, self.masked = list(blocks), causal, masked
        self.depth, self.width, self.length = len(self.blocks), width, length

    @abstractmethod
    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Hidden states before the first block."""

    @abstractmethod
    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """Embeddings of what the last block gave.

        Args:
            states: (N, D), the token that is read, or (N, L, D) if there is none.
            valid: Which tokens are no padding, (N, L) bool.

        Returns:
            (N, E), not normalised.
        """

    def prefix(self, batch: PairBatch, layer: Layer) -> HiddenStates:
        """Hidden states after block `layer`."""
        self.check_layer(layer)
        hidden = self.embeddings(batch)
        states = hidden.states
        mask = self.mask(hidden.valid)
        for block in self.blocks[: _after(layer)]:
            states = block(states, states, mask, self.causal)
        return hidden._replace(states=states)

    def suffix(self, states: Tensor, hidden: HiddenStates, layer: Layer) -> Tensor:
        """Embeddings of hidden states after block `layer`, (K, B, L, D) to (K, B, E)."""
        samples = len(states)
        flat, valid = rearrange(states, "k b l d -> (k b) l d"), repeat(hidden.valid, "b l -> (k b) l", k=samples)
        mask = self.mask(valid)
        for block in self.blocks[_after(layer) : -1]:
            flat = block(flat, flat, mask, self.causal)
        if hidden.read is None:
            flat = self.blocks[-1](flat, flat, mask, self.causal)
        else:
            flat = self._last_block_at(flat, mask, repeat(hidden.read, "b -> (k b)", k=samples))
        return rearrange(self.head(flat, valid), "(k b) e -> k b e", k=samples)

    def mask(self, valid: Tensor) -> Tensor | None:
        """Which keys are seen, given (N, L) valid tokens; broadcasts to (N, 1, L, L), None for all of them."""
        return rearrange(valid, "n l -> n 1 1 l") if self.masked else None

    def _last_block_at(self, states: Tensor, mask: Tensor | None, read: Tensor) -> Tensor:
        """The last block for the token `read` (N,) of each sequence, (N, L, D) to (N, D)."""
        rows = torch.arange(len(states), device=states.device)
        if self.causal:
            seen = torch.arange(states.shape[1], device=states.device) <= rearrange(read, "n -> n 1")
            mask = rearrange(seen, "n l -> n 1 1 l")
        elif mask is not None and mask.shape[2] > 1:
            mask = rearrange(mask[rows, :, read], "n heads l -> n heads 1 l")
        asked = rearrange(states[rows, read], "n d -> n 1 d")
        return rearrange(self.blocks[-1](asked, states, mask, False), "n 1 d -> n d")


def _after(layer: Layer) -> int:
    """How many blocks come before a cut."""
    return 0 if layer == "embeddings" else layer + 1
