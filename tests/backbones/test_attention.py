from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from m2ib_lightning.backbones import attention
from m2ib_lightning.backbones.attention import attend, attend_fused, attend_states, keys_and_values_made
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


@pytest.mark.parametrize("asked", [1, 5])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("causal", "masked"), [(False, False), (False, True), (True, False)])
def test_one_projection_to_all_is_three_projections(asked, biased, causal, masked):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(36, 12, generator=generator, dtype=torch.float64)
    bias = torch.randn(36, generator=generator, dtype=torch.float64) if biased else None
    states = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 1, 1]]).bool()[:, None, None] if masked else None
    parts = [None] * 3 if bias is None else bias.chunk(3)
    query, key, value = (nn.functional.linear(states, w, b) for w, b in zip(weight.chunk(3), parts, strict=True))
    for scale in (None, 0.3):
        more = {"heads": 3, "mask": mask, "causal": causal, "scale": scale}
        expected = attend(query[:, :asked], key, value, **more)
        torch.testing.assert_close(attend_fused(states, states[:, :asked], weight, bias, **more), expected)


def test_a_projection_without_a_bias_asks_once_too():
    torch.manual_seed(1)
    key, value = (nn.Linear(12, 12, bias=False).double() for _ in range(2))
    states = torch.randn(3, 5, 12, dtype=torch.float64)
    ours = attend_states(states[:, :1], states, key, value, heads=3, mask=None, causal=False)
    expected = attend(states[:, :1], key(states), value(states), heads=3, mask=None, causal=False)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("asked", "causal", "recorded", "compiling", "made"),
    [
        (1, False, False, False, 0),
        (2, False, False, False, 2),
        (1, True, False, False, 2),
        (1, False, True, False, 2),
        (1, False, True, True, 0),
        (2, False, True, True, 2),
    ],
)
def test_keys_and_values_are_made_unless_one_query_asks_and_nobody_records(
    asked, causal, recorded, compiling, made, monkeypatch
):
    key, value = projections(12)
    calls = []
    for layer in (key, value):
        layer.register_forward_hook(lambda *_: calls.append(1))
    states = torch.randn(2, 4, 12, dtype=torch.float64)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    with keys_and_values_made() if recorded else nullcontext():
        attend_states(states[:, :asked], states, key, value, heads=3, mask=None, causal=causal)
    assert len(calls) == made
    attend_states(states[:, :1], states, key, value, heads=3, mask=None, causal=False)
    assert len(calls) == made, "the record is closed"


def test_projections_of_another_kind_make_keys_and_values_themselves():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    key, value = projections(12)
    own = Doubled(12, 12).double()
    states = torch.randn(2, 4, 12, dtype=torch.float64)
    for k, v in ((own, value), (key, own), (own, own), (nn.Identity(), value)):
        ours = attend_states(states[:, :1], states, k, v, heads=3, mask=None, causal=False)
        expected = attend(states[:, :1], k(states), v(states), heads=3, mask=None, causal=False)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("asked", [1, 3])
def test_attention_of_a_processor_is_in_float32_under_autocast_and_gives_what_it_was_given(asked):
    torch.manual_seed(2)
    states, weight = torch.randn(2, 3, 12), torch.randn(36, 12)
    more = {"heads": 3, "mask": None, "causal": False}
    expected = attend(states, states, states, **more)
    fused = attend_fused(states, states[:, :asked], weight, None, **more)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(states, states, states, **more), expected)
        low = attend_fused(states, states[:, :asked], weight, None, **more)
    # Projections are in the precision that is on, what they give is not rounded further than once.
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), fused, rtol=0.05, atol=0.3)
    for dtype in (torch.bfloat16, torch.float16):
        half = states.to(dtype)
        assert torch.equal(attend(half, half, half, **more), attend(*[half.float()] * 3, **more).to(dtype))


def test_a_gpus_kernel_is_chosen_for_64_keys_or_fewer(monkeypatch):
    asked = []
    monkeypatch.setattr(attention, "sdpa_kernel", lambda kernels, set_priority: asked.append(set_priority))
    for is_cuda, length in ((True, 64), (True, 65), (False, 64)):
        attention._fastest(SimpleNamespace(is_cuda=is_cuda, shape=(1, 1, length, 8)))
        assert asked == [True]
