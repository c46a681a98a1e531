"""Image towers of open_clip: its vision transformer, its ResNet, and the plain transformers and ConvNeXt of timm."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from m2ib_lightning.backbones.attention import attend_fused
from m2ib_lightning.backbones.base import Tower, with_prefix
from m2ib_lightning.backbones.convolution import ConvolutionalTower
from m2ib_lightning.backbones.transformer import TransformerTower
from m2ib_lightning.types import HiddenStates, PairBatch


class ResidualBlock:
    """A `ResidualAttentionBlock` of open_clip: pre-norm, queries, keys and values in one projection."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """New states of the queries."""
        layer, own = self.layer, self.layer.attn
        normed = layer.ln_1(states)
        asked = normed if queries is states else layer.ln_1(queries)
        mixed = attend_fused(
            normed, asked, own.in_proj_weight, own.in_proj_bias, heads=own.num_heads, mask=mask, causal=causal
        )
        queries = queries + layer.ls_1(own.out_proj(mixed))
        return queries + layer.ls_2(layer.mlp(layer.ln_2(queries)))


class ViTImageTower(TransformerTower):
    """open_clip's `VisionTransformer`: CLS and patches, pooled by CLS, by the mean of the patches, or by attention."""

    prefix_tokens = 1

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.patch: int = visual.patch_size[0]
        self.reads_cls = visual.attn_pool is None and visual.pool_type == "tok"
        self.reads = (
            "CLS" if self.reads_cls else "attention over all patches" if visual.attn_pool else "mean of patches"
        )
        rows, columns = visual.grid_size
        super().__init__(residual_blocks(visual.transformer), visual.transformer.width, 1 + rows * columns)

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """CLS and the patches, row by row."""
        return with_prefix(self.visual._embeds(batch.pixel_values), 1, self.reads_cls)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D) or (N, L, D) to (N, E)."""
        pooled = self.visual.ln_post(states) if self.reads_cls else self.visual._pool(states)[0]
        return pooled @ self.visual.proj


class ResNetImageTower(ConvolutionalTower):
    """open_clip's `ModifiedResNet`; layers are the blocks of its last stage, and attention pools all cells."""

    reads = "attention over all cells"

    def __init__(self, visual: Any, size: tuple[int, int], device: torch.device) -> None:
        self.visual = visual
        first, *rest = visual.layer4
        before = [visual.stem, visual.layer1, visual.layer2, visual.layer3, first]
        super().__init__(before, rest, size, device)

    def head(self, maps: Tensor) -> Tensor:
        """(N, D, gh, gw) to (N, E)."""
        return self.visual.attnpool(maps)


class ConvNextImageTower(ConvolutionalTower):
    """timm's ConvNeXt in open_clip; layers are the blocks of its last stage, and its head averages all cells."""

    reads = "mean of all cells"

    def __init__(self, visual: Any, size: tuple[int, int], device: torch.device) -> None:
        self.visual, trunk = visual, visual.trunk
        *stages, last = trunk.stages
        first, *rest = last.blocks
        super().__init__([trunk.stem, *stages, last.downsample, first], rest, size, device)

    def head(self, maps: Tensor) -> Tensor:
        """(N, D, gh, gw) to (N, E)."""
        trunk = self.visual.trunk
        return self.visual.head(trunk.forward_head(trunk.norm_pre(maps)))


class TimmBlock:
    """A block of timm's; positions that rotate queries and keys are asked of the model each time."""

    def __init__(self, trunk: Any, index: int) -> None:
        self.trunk, self.index = trunk, index

    def __call__(self, queries: Tensor, states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """New states of the queries, or of all tokens where the block is not a plain one."""
        block = self.trunk.blocks[self.index]
        if queries is not states and self.plain:
            return _run_plain(block, queries, states)
        rope = getattr(self.trunk, "rope", None)
        if rope is None:
            return block(states)
        positions = rope.get_embed()
        mixed = getattr(self.trunk, "rope_mixed", False)
        return block(states, rope=positions[self.index] if mixed else positions)

    @property
    def plain(self) -> bool:
        """Whether it is pre-norm with nothing between its projections and attention, as `_run_plain` has it."""
        block = self.trunk.blocks[self.index]
        own = getattr(block, "attn", None)
        if (type(block).__name__, type(own).__name__) != ("Block", "Attention"):
            return False
        return getattr(own, "gate", None) is None and all(
            isinstance(getattr(own, name, nn.Identity()), nn.Identity) for name in ("q_norm", "k_norm", "norm")
        )


def _run_plain(block: Any, queries: Tensor, states: Tensor) -> Tensor:
    """New states (N, Q, D) of some tokens by timm's `Block`, which itself would compute all of (N, L, D)."""
    own = block.attn
    normed, asked = block.norm1(states), block.norm1(queries)
    mixed = attend_fused(
        normed, asked, own.qkv.weight, own.qkv.bias, heads=own.num_heads, mask=None, causal=False, scale=own.scale
    )
    queries = queries + block.ls1(own.proj(mixed))
    return queries + block.ls2(block.mlp(block.norm2(queries)))


class TimmImageTower(TransformerTower):
    """A plain vision transformer of timm (SigLIP, EVA-02, Perception Encoder) as open_clip wraps it."""

    def __init__(self, visual: Any) -> None:
        self.visual, trunk = visual, visual.trunk
        self.prefix_tokens = trunk.num_prefix_tokens
        attends = getattr(trunk, "attn_pool", None) is not None
        self.reads_cls = not attends and trunk.global_pool == "token"
        self.reads = "CLS" if self.reads_cls else "attention over all patches" if attends else "mean of patches"
        self.cells: tuple[int, int] = tuple(trunk.patch_embed.grid_size)
        blocks = [TimmBlock(trunk, index) for index in range(len(trunk.blocks))]
        self.plain = blocks[-1].plain
        super().__init__(blocks, trunk.embed_dim, self.prefix_tokens + self.cells[0] * self.cells[1])

    def embeddings(self, batch: PairBatch) -> HiddenStates:
        """CLS and registers, if there are any, and the patches, row by row."""
        trunk = self.visual.trunk
        placed = trunk._pos_embed(trunk.patch_embed(batch.pixel_values))
        states = trunk.norm_pre(placed[0] if isinstance(placed, tuple) else placed)
        return with_prefix(states, self.prefix_tokens, self.reads_cls)

    def head(self, states: Tensor, valid: Tensor) -> Tensor:
        """(N, D), a sequence of CLS alone, or (N, L, D) to (N, E)."""
        trunk = self.visual.trunk
        states = rearrange(states, "n d -> n 1 d") if states.ndim == 2 else states
        return self.visual.head(trunk.forward_head(trunk.norm(states)))

    def grid(self, batch: PairBatch) -> tuple[int, int]:
        """Patches per column and per row."""
        return self.cells

    def _last_block_at(self, states: Tensor, mask: Tensor | None, read: Tensor) -> Tensor:
        """The last block for CLS where it is a plain one, for all tokens where not."""
        if self.plain:
            return super()._last_block_at(states, mask, read)
        return self.blocks[-1](states, states, mask, False)


def image_tower(visual: Any, name: str, size: tuple[int, int], device: torch.device) -> Tower:
    """The tower of an image model of open_clip.

    Raises:
        ValueError: It is of another kind.
    """
    trunk: Any = getattr(visual, "trunk", None)
    kind = type(visual if trunk is None else trunk).__name__
    if kind == "VisionTransformer" and trunk is None:
        return ViTImageTower(visual)
    if kind == "ModifiedResNet":
        return ResNetImageTower(visual, size, device)
    if kind == "ConvNeXt":
        return ConvNextImageTower(visual, size, device)
    if kind in ("VisionTransformer", "Eva") and hasattr(trunk.patch_embed, "proj"):
        return TimmImageTower(visual)
    raise ValueError(
        f"Expected an image tower of a known kind (a ViT, ResNet, ConvNeXt or EVA) but {name!r} has a {kind}. "
        "Remedy: implement the contract in m2ib_lightning/backbones/base.py for it, in one file."
    )


def residual_blocks(transformer: Any) -> list[ResidualBlock]:
    """The blocks of open_clip's own transformer.

    Raises:
        ValueError: They are its experimental ones.
    """
    kinds = {type(layer).__name__ for layer in transformer.resblocks}
    if kinds != {"ResidualAttentionBlock"}:
        raise ValueError(
            f"Expected blocks of class ResidualAttentionBlock but got {', '.join(sorted(kinds))}. "
            "Remedy: implement the contract in m2ib_lightning/backbones/base.py for them, in one file."
        )
    return [ResidualBlock(layer) for layer in transformer.resblocks]
