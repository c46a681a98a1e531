"""Towers cut in two against all tokens of all blocks, with blocks that add up what a token sees."""

import pytest
import torch
from torch import nn

from m2ib_lightning.backbones.transformer import TransformerTower
from m2ib_lightning.types import HiddenStates


class Adding:
    """A block that gives a token the mean of those that it sees, times a number."""

    def __init__(self, factor):
        self.factor, self.asked = factor, []

    def __call__(self, queries, states, mask, causal):
        self.asked.append(queries.shape[1])
        seen = torch.ones(len(states), 1, queries.shape[1], states.shape[1], dtype=torch.bool)
        if mask is not None:
            seen = seen & mask
        if causal:
            seen = seen.tril()
        weights = seen[:, 0] / seen[:, 0].sum(-1, keepdim=True).clamp(min=1)
        return queries + self.factor * torch.tanh(weights @ states)


class Made(TransformerTower):
    """Three blocks over given states; a head that sums what it is given."""

    reads = "one token"

    def __init__(self, hidden, rows=None, **arguments):
        self.hidden, self.rows = hidden, rows
        super().__init__([Adding(n) for n in (1.0, 2.0, 3.0)], 4, 5, **arguments)

    def embeddings(self, batch):
        return self.hidden

    def mask(self, valid):
        return super().mask(valid) if self.rows is None else self.rows.repeat(len(valid) // len(self.rows), 1, 1, 1)

    def head(self, states, valid):
        return states if states.ndim == 2 else (states * valid[..., None]).sum(1)


def given(read):
    generator = torch.Generator().manual_seed(0)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    return HiddenStates(torch.randn(2, 5, 4, generator=generator), valid, ~valid, read)


def slowly(tower, hidden, first, states):
    """All tokens through the blocks from `first` on, what each token sees written out."""
    seen = torch.ones(2, 5, 5, dtype=torch.bool)
    if tower.masked:
        seen &= hidden.valid[:, None]
    if tower.rows is not None:
        seen &= tower.rows[:, 0]
    if tower.causal:
        seen &= torch.arange(5)[None, :] <= torch.arange(5)[:, None]
    for factor in (1.0, 2.0, 3.0)[first:]:
        states = states + factor * torch.tanh(seen / seen.sum(-1, keepdim=True).clamp(min=1) @ states)
    if hidden.read is None:
        return (states * hidden.valid[..., None]).sum(1)
    return states[torch.arange(2), hidden.read]


ROWS = (torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)) > 0.5) | torch.eye(5, dtype=torch.bool)


@pytest.mark.parametrize("read", [None, [2, 1], [0, 0], [4, 2]])
@pytest.mark.parametrize("kind", [{}, {"causal": True}, {"masked": True}, {"rows": ROWS}])
@pytest.mark.parametrize(("layer", "first"), [("embeddings", 0), (0, 1), (1, 2)])
def test_the_two_parts_are_the_whole_for_every_sample_and_way_of_looking(read, kind, layer, first):
    hidden = given(None if read is None else torch.tensor(read))
    tower = Made(hidden, **kind)
    cut = tower.prefix(None, layer)
    states = torch.stack([cut.states, cut.states + 1])
    found = tower.suffix(states, cut, layer)
    torch.testing.assert_close(found[0], slowly(tower, hidden, 0, hidden.states))
    torch.testing.assert_close(found[1], slowly(tower, hidden, first, cut.states + 1))


def test_a_token_sees_all_others_unless_it_is_said_otherwise():
    tower = Made(given(None))
    assert (tower.causal, tower.masked, tower.depth, tower.width, tower.length) == (False, False, 3, 4, 5)


@pytest.mark.parametrize(("read", "last"), [(torch.tensor([1, 2]), 1), (None, 5)])
def test_the_last_block_computes_no_token_but_the_one_that_is_read(read, last):
    hidden = given(read)
    tower = Made(hidden)
    tower.suffix(hidden.states[None], hidden, "embeddings")
    assert [block.asked for block in tower.blocks] == [[5], [5], [last]]


def test_a_cut_behind_the_last_block_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1 but got 2"):
        Made(given(None)).prefix(None, 2)


def test_blocks_of_clips_kind_normalise_before_and_add_twice():
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    from m2ib_lightning.backbones.transformer import PreNormBlock

    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=8, intermediate_size=16, num_attention_heads=2)
    config._attn_implementation = "sdpa"
    layer = CLIPEncoderLayer(config).eval()
    for norm in (layer.layer_norm1, layer.layer_norm2):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    states = torch.randn(2, 5, 8)
    expected = layer(states, attention_mask=None)
    expected = expected[0] if isinstance(expected, tuple) else expected
    block = PreNormBlock(layer)
    torch.testing.assert_close(block(states, states, None, False), expected, rtol=1e-4, atol=1e-5)
    some = states[:, 1:3].clone()
    torch.testing.assert_close(block(some, states, None, False), expected[:, 1:3], rtol=1e-4, atol=1e-5)
