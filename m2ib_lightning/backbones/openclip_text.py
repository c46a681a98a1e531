"""Text towers of open_clip: its own, CoCa's, and BERT and RoBERTa of Hugging Face."""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum, rearrange, reduce, repeat
from torch import Tensor, nn

from m2ib_lightning.backbones.openclip_image import residual_blocks
from m2ib_lightning.backbones.towers import BertTextTower, no_text
from m2ib_lightning.backbones.transformer import TransformerTower
from m2ib_lightning.types import HiddenStates, PairBatch


class OpenClipTextTower(TransformerTower):
    """open_clip's text transformer, as part of a `CLIP` or as a `TextTransformer`.

    A causal one that reads EOS runs at the length of the longest text of a batch. Others (SigLIP, CLIPA) were trained
    on texts padded to the full length and attend to the padding, whose tokens then are valid, and special.
    """

    def __init__(self, text: Any) -> None:
        self.text = text
        self.pool: str = getattr(text, "text_pool_type", None) or text.pool_type
        self.eos: int = text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id
        causal = text.attn_mask is not None
        if self.pool not in ("argmax", "eos", "first", "last") or getattr(text, "use_pad_mask", False):
            raise ValueError(
                f"Expected a text tower that reads one token but {type(text).__name__} pools by {self.pool!r}. "
                "Remedy: implement the contract in m2ib_lightning/backbones/base.py for it, in one file."
            )
        self.reads = {"argmax": "EOS", "eos": "EOS", "first": "first token", "last": "last token"}[self.pool]
        self.reads_padding = not causal or self.reads != "EOS"
        blocks = residual_blocks(text.transformer)
        super().__init__(blocks, text.transformer.width, text.context_length, causal=causal)
        self.limit = self.length

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Token and position embeddings."""
        ids = batch.input_ids
        states = self.text.token_embedding(ids) + self.text.positional_embedding[: ids.shape[1]]
        if self.reads == "EOS":
            read = ids.argmax(-1) if self.pool == "argmax" else (ids == self.eos).int().argmax(-1)
        else:
            read = torch.full((len(ids),), 0 if self.pool == "first" else ids.shape[1] - 1, device=ids.device)
        return HiddenStates(states, batch.attention_mask, no_text(batch), read)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D) to (N, E)."""
        projection, normed = self.text.text_projection, self.text.ln_final(states)
        if projection is None:
            return normed
        return projection(normed) if isinstance(projection, nn.Linear) else normed @ projection


class CocaTextTower(OpenClipTextTower):
    """CoCa's text transformer: causal, at full length, with a CLS behind the text that its head reads.

    As the released weights were trained, CLS sees the text and the first token of padding, and not itself. That is so
    for texts that leave one position free, and texts are cut to it.
    """

    def __init__(self, text: Any) -> None:
        super().__init__(text)
        if text.correct_cls_mask:
            raise ValueError("Expected CoCa's released mask but got `correct_cls_mask`. Remedy: use released weights.")
        self.reads, self.reads_padding, self.causal = "CLS", False, False  # its mask says all
        self.full, self.limit = self.length, self.length - 1
        self.length += 1  # CLS

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Token and position embeddings, CLS last."""
        ids = torch.nn.functional.pad(
            batch.input_ids, (0, self.full - batch.input_ids.shape[1]), value=self.text.pad_id
        )
        behind = torch.ones_like(ids[:, :1], dtype=torch.bool)
        states = torch.cat([self.text.token_embedding(ids), repeat(self.text.cls_emb, "d -> b 1 d", b=len(ids))], 1)
        states = states + self.text.positional_embedding[: states.shape[1]]
        special = torch.nn.functional.pad(no_text(batch), (0, states.shape[1] - batch.input_ids.shape[1]), value=True)
        # Whether key j is seen is said of token j - 1, so the first of padding is. CLS is read and counts as valid.
        valid = torch.cat([behind, (ids != self.text.pad_id)[:, :-1], behind], 1)
        return HiddenStates(states, valid, special, torch.full((len(ids),), self.full, device=ids.device))

    def mask(self, valid: Tensor) -> Tensor:
        """(N, 1, L, L): the keys up to a query that are valid; CLS is seen by none."""
        keys = valid.clone()
        keys[:, -1] = False
        length = valid.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
        return rearrange(keys, "n l -> n 1 1 l") & before


class OpenClipBertTower(BertTextTower):
    """A BERT or RoBERTa of Hugging Face as open_clip wraps it, which reads CLS or the mean of all tokens."""

    def __init__(self, text: Any) -> None:
        self.text, bert = text, text.transformer
        self.pooler = type(text.pooler).__name__
        stack = getattr(getattr(bert, "encoder", None), "layer", None)
        known = ("ClsPooler", "ClsLastHiddenStatePooler", "MeanPooler")
        if stack is None or not hasattr(stack[0], "intermediate") or self.pooler not in known:
            raise ValueError(
                f"Expected a text tower like BERT but it is a {type(bert).__name__} with a {self.pooler}. "
                "Remedy: implement the contract in m2ib_lightning/backbones/base.py for it, in one file."
            )
        positions = bert.config.max_position_embeddings
        super().__init__(bert, stack, text.proj, positions)
        self.limit = positions
        self.reads = "mean of all tokens" if self.pooler == "MeanPooler" else "CLS"

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """Word, type and position embeddings, CLS first."""
        hidden = super().embeddings(batch)
        return hidden._replace(read=None) if self.pooler == "MeanPooler" else hidden

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D) or (N, L, D) to (N, E)."""
        if self.pooler == "MeanPooler":
            total = einsum(states, valid.to(states), "n l d, n l -> n d")
            states = total / reduce(valid.to(states), "n l -> n 1", "sum")
        elif self.pooler == "ClsPooler" and self.bert.pooler is not None:
            states = self.bert.pooler(rearrange(states, "n d -> n 1 d"))
        return self.projection(states)


def text_tower(model: Any) -> OpenClipTextTower | OpenClipBertTower:
    """The text tower of a model of open_clip.

    Raises:
        ValueError: It is of another kind.
    """
    text = getattr(model, "text", model)
    if type(text).__name__ == "HFTextEncoder":
        return OpenClipBertTower(text)
    return OpenClipTextTower(text) if getattr(text, "cls_emb", None) is None else CocaTextTower(text)
