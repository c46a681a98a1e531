import pytest
import torch
from torch import nn

from m2ib_lightning.backbones.attention import attend, attend_states
from m2ib_lightning.methods.attention import AttentionRecord


def projections(width):
    torch.manual_seed(1)
    return nn.Linear(width, width).double(), nn.Linear(width, width).double()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_one_query_gets_what_it_would_from_keys_and_values(masked, scale):
    key, value = projections(12)
    query = torch.randn(3, 1, 12, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1]]).bool()[:, None, None] if masked else None
    found = []
    states = torch.randn(3, 5, 12, dtype=torch.float64)
    for function in (attend_states, lambda q, x, k, v, **rest: attend(q, k(x), v(x), **rest)):
        asked, seen = query.clone().requires_grad_(), states.clone().requires_grad_()
        out = function(asked, seen, key, value, heads=3, mask=mask, causal=False, scale=scale)
        out.square().sum().backward()
        found.append((out, asked.grad, seen.grad))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


def test_several_queries_and_causal_attention_make_keys_and_values():
    key, value = projections(12)
    states = torch.randn(2, 4, 12, dtype=torch.float64)
    ours = attend_states(states, states, key, value, heads=3, mask=None, causal=True)
    torch.testing.assert_close(ours, attend(states, key(states), value(states), heads=3, mask=None, causal=True))


def test_a_record_of_attention_sees_keys_and_values():
    key, value = projections(12)
    query, states = torch.randn(2, 1, 12, dtype=torch.float64), torch.randn(2, 4, 12, dtype=torch.float64)
    with AttentionRecord() as record:
        out = attend_states(query, states, key, value, heads=3, mask=None, causal=False)
    assert record.calls[0].key.shape == (2, 3, 4, 4)
    torch.testing.assert_close(out, attend_states(query, states, key, value, heads=3, mask=None, causal=False))
