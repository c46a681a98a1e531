"""Small modules made like open_clip's, which run as its own do: a batch of tokens at once, masks added to logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from m2ib_lightning.types import PairBatch


class Scale(nn.Module):
    """Multiplies by a number for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.ls_1, self.ls_2 = Scale(width), Scale(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.ls_1(self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, width: int, blocks: int = 3) -> None:
        super().__init__()
        self.width = width
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width) for _ in range(blocks))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


def randomly(module: nn.Module) -> Any:
    """The module with weights that are large enough for mistakes to be seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def batch_of(ids: list[list[int]], pixels: Tensor | None = None, special: tuple[int, ...] = (0, 1, 2)) -> PairBatch:
    """A batch of texts of such ids, 0 for padding."""
    tokens = torch.tensor(ids)
    spans = tuple(tuple((0, 0) if i in special else (n, n + 1) for n, i in enumerate(row)) for row in ids)
    pixels = torch.zeros(len(ids), 3, 4, 4) if pixels is None else pixels
    return PairBatch(pixels, tokens, tokens != 0, (), (), spans, (), ())


def assert_whole(tower: Any, batch: PairBatch, expected: Tensor) -> None:
    """The two parts of a tower, cut anywhere, are its library's forward pass, for each sample."""
    for layer in ("embeddings", *range(tower.depth - 1)):
        hidden = tower.prefix(batch, layer)
        found = tower.suffix(torch.stack([hidden.states, hidden.states.flip(-1)]), hidden, layer)
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found[1], expected, rtol=1e-2)
