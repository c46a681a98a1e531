import copy

import pytest
import torch
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPMLP

from m2ib_lightning.backbones import frozen
from m2ib_lightning.backbones.frozen import run_linear, run_linears, run_mlp


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=6, intermediate_size=24, num_attention_heads=2, hidden_act="quick_gelu")
    return CLIPMLP(config).requires_grad_(False)


def test_a_frozen_mlp_and_its_gradient_are_the_librarys(mlp):
    ours = (4 * torch.randn(2, 3, 6)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.randn(2, 3, 6)
    (run_mlp(mlp, ours) * weight).sum().backward()
    (mlp(theirs) * weight).sum().backward()
    torch.testing.assert_close(run_mlp(mlp, ours), mlp(theirs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_it_passes_a_numerical_check_of_its_gradient(mlp):
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    exact = mlp.double()
    assert torch.autograd.gradcheck(lambda x: run_mlp(exact, x), x)


def test_it_computes_in_the_precision_of_autocast(mlp):
    x = torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = run_mlp(mlp, x), mlp(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


def test_an_mlp_in_training_gets_the_gradients_of_its_weights(mlp):
    trained = copy.deepcopy(mlp).requires_grad_(True)
    run_mlp(trained, torch.randn(5, 6)).sum().backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())


def test_a_frozen_layer_and_its_gradient_are_the_librarys():
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4).requires_grad_(False)
    ours, weight = torch.randn(2, 3, 6, requires_grad=True), torch.randn(2, 3, 4)
    theirs = ours.detach().clone().requires_grad_()
    (run_linear(layer, ours) * weight).sum().backward()
    (layer(theirs) * weight).sum().backward()
    torch.testing.assert_close(run_linear(layer, ours), layer(theirs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_layer_in_training_gets_its_gradient_and_autocast_its_precision():
    layer = torch.nn.Linear(6, 4)
    run_linear(layer, torch.randn(2, 6)).sum().backward()
    assert layer.weight.grad is not None
    layer.weight.requires_grad_(False)
    layer.bias.grad = None
    run_linear(layer, torch.randn(2, 6)).sum().backward()
    assert layer.bias.grad is not None, "nor is one whose bias alone is trained frozen"
    with torch.autocast("cpu", torch.bfloat16):
        assert run_linear(layer.requires_grad_(False), torch.randn(2, 6)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_onednn_has_no_products_torch_computes_the_same(mlp, dtype, monkeypatch):
    monkeypatch.setattr(frozen, "_has_onednn", lambda *_: False)
    x = torch.randn(5, 6)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for run, part in ((run_mlp, mlp), (run_linear, mlp.fc1)):
            torch.testing.assert_close(run(part, x), part(x), rtol=0.02, atol=0.02)


@pytest.fixture
def products(monkeypatch):
    """The shapes of the weights that oneDNN or its stand-in multiplied with."""
    seen, product = [], frozen._product
    monkeypatch.setattr(
        frozen, "_product", lambda x, weight, *more: (seen.append(weight.shape), product(x, weight, *more))[1]
    )
    return seen


def test_frozen_layers_of_the_librarys_own_kind_are_multiplied_here_and_no_others(mlp, products, monkeypatch):
    class Own(torch.nn.Linear):
        pass

    def run(part, x):
        products.clear()
        (run_mlp if hasattr(part, "fc1") else run_linear)(part, x)
        return len(products)

    x, trained = torch.randn(5, 6), torch.nn.Linear(6, 4)
    trained.bias.requires_grad_(False)
    own, other = (copy.deepcopy(mlp) for _ in range(2))
    own.fc2, other.activation_fn = Own(24, 6).requires_grad_(False), torch.nn.GELU()
    partly = copy.deepcopy(mlp)
    partly.fc2.bias.requires_grad_(True)
    assert (run(mlp.fc1, x), run(mlp, x)) == (1, 2)
    assert [run(part, x) for part in (trained, Own(6, 4).requires_grad_(False), own, other, partly)] == [0] * 5
    # In float64 and under compilation the library's own code runs.
    assert run(mlp.fc1.double(), x.double()) == 0
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert [run(part, x) for part in (copy.deepcopy(mlp).float().fc1, copy.deepcopy(mlp).float())] == [0, 0]


def test_a_frozen_layer_without_a_bias_is_the_librarys():
    layer = torch.nn.Linear(6, 4, bias=False).requires_grad_(False)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(run_linear(layer, x), layer(x), rtol=1e-5, atol=1e-6)


def test_what_onednn_cannot_do_is_known(monkeypatch):
    here, away = torch.zeros(1), torch.zeros(1, device="meta")
    known = {
        dtype: [frozen._has_onednn(dtype, x) for x in (here, away)]
        for dtype in (torch.float32, torch.float64, torch.float16)
    }
    there = torch.backends.mkldnn.is_available()
    assert known == {torch.float32: [there, False], torch.float64: [False] * 2, torch.float16: [False] * 2}
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported)
        assert frozen._has_onednn(torch.bfloat16, here) == (there and supported)
        assert frozen._has_onednn(torch.float32, here) == there
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not frozen._has_onednn(torch.float32, here)


def test_float32_stays_float32_where_onednn_has_no_products(mlp, monkeypatch):
    monkeypatch.setattr(frozen, "_has_onednn", lambda *_: False)
    x = torch.randn(5, 6)
    torch.testing.assert_close(run_mlp(mlp, x), mlp(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run_linear(mlp.fc1, x), mlp.fc1(x), rtol=1e-5, atol=1e-6)


@pytest.fixture
def three():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, wide, bias=with_bias) for wide, with_bias in ((4, True), (6, False), (2, True))]
    return [layer.requires_grad_(False) for layer in layers]


@pytest.mark.parametrize("onednn", [True, False])
def test_layers_of_the_same_states_and_their_one_gradient_are_the_librarys(three, onednn, monkeypatch):
    if not onednn:
        monkeypatch.setattr(frozen, "_has_onednn", lambda *_: False)
    ours = torch.randn(2, 3, 6, requires_grad=True)
    theirs, factors = ours.detach().clone().requires_grad_(), [torch.randn(2, 3, layer.out_features) for layer in three]
    sum((found * f).sum() for found, f in zip(run_linears(three, ours), factors, strict=True)).backward()
    sum((layer(theirs) * f).sum() for layer, f in zip(three, factors, strict=True)).backward()
    for found, layer in zip(run_linears(three, ours), three, strict=True):
        torch.testing.assert_close(found, layer(theirs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_the_one_gradient_passes_a_numerical_check_also_where_an_output_is_not_used(three):
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    exact = [layer.double() for layer in three]
    assert torch.autograd.gradcheck(lambda x: tuple(run_linears(exact, x)), x)
    assert torch.autograd.gradcheck(lambda x: run_linears(exact, x)[1], x)


def test_layers_of_the_same_states_are_computed_in_the_precision_of_autocast(three):
    x = torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = run_linears(three, x), [layer(x) for layer in three]
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_where_one_of_the_layers_is_trained_or_of_another_kind_each_runs_as_it_is(three):
    class Twice(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x, trained, other = torch.randn(2, 6), torch.nn.Linear(6, 4), Twice(6, 4).requires_grad_(False)
    run_linears([three[0], trained], x)[1].sum().backward()
    assert trained.weight.grad is not None and trained.bias.grad is not None
    torch.testing.assert_close(run_linears([three[0], other], x)[1], other(x))


def test_compiled_code_has_the_layers_as_the_library_has_them(three, products, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for found, layer in zip(run_linears(three, x := torch.randn(2, 6)), three, strict=True):
        torch.testing.assert_close(found, layer(x))
    assert products == []
