"""Frozen layers in less time than the library's: no gradient for weights, oneDNN's products, few passes over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SLOPE = 1.702
"""QuickGELU is x sigmoid(1.702 x) = silu(u) / 1.702 with u = 1.702 x, and its derivative in x is silu'(u)."""


def run_linear(layer: Any, x: Tensor) -> Tensor:
    """What the layer gives; faster if it is a frozen `nn.Linear` on a processor.

    Args:
        layer: A layer of the model. One that is being trained or compiled, or is of another class, runs as the
            library has it.
        x: The states that go in, (..., D).

    Returns:
        (..., D').
    """
    if not _is_frozen_linear(layer) or not _has_onednn(_precision(x), x):
        return layer(x)
    return run_linears([layer], x)[0]


def run_linears(layers: Sequence[Any], x: Tensor) -> list[Tensor]:
    """What each of several layers gives for the same states, as `run_linear`; their gradients in `x` are one.

    Args:
        layers: Layers of the model.
        x: The states that go in, (..., D).

    Returns:
        (..., D') each.
    """
    if not all(_is_frozen_linear(layer) for layer in layers):
        return [run_linear(layer, x) for layer in layers]
    dtype = _precision(x)
    weights = [layer.weight.to(dtype) for layer in layers]
    biases = [None if layer.bias is None else layer.bias.to(dtype) for layer in layers]
    with torch.autocast(x.device.type, enabled=False):
        found: tuple[Tensor, ...] = _FrozenLinears.apply(x.to(dtype).flatten(0, -2), *weights, *biases)
    return [product.view(*x.shape[:-1], -1) for product in found]


def run_mlp(mlp: Any, x: Tensor) -> Tensor:
    """A frozen two-layer MLP (`fc1`, `activation_fn`, `fc2`) as the library runs it; faster if it has a QuickGELU.

    Args:
        mlp: An MLP of the model. One that is being trained or compiled runs as the library has it.
        x: The states that go in, (..., D).

    Returns:
        Of the same shape.
    """
    if not _is_frozen_quick_gelu(mlp):
        return mlp(x)
    dtype = _precision(x)
    weights = (weight.to(dtype) for layer in (mlp.fc1, mlp.fc2) for weight in (layer.weight, layer.bias))
    with torch.autocast(x.device.type, enabled=False):
        flat: Tensor = _FrozenMLP.apply(x.to(dtype).flatten(0, -2), *weights)
    return flat.view(x.shape)


class _FrozenLinears(torch.autograd.Function):
    """Matrix products of the same states with no gradient for weights; products for `x` add up as they are made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        ctx.save_for_backward(*weights)
        return tuple(_product(x, w, b) for w, b in zip(weights, biases, strict=True) if w is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        found = _product(grad_outputs[0], weights[0].t())
        for grad, weight in zip(grad_outputs[1:], weights[1:], strict=True):
            if _has_onednn(found.dtype, found):
                found += _product(grad, weight.t())
            else:
                found.addmm_(grad, weight)
        return found, *[None] * (2 * len(weights))


class _FrozenMLP(torch.autograd.Function):
    """fc2(quick_gelu(fc1(x))) with no gradient for weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        u = _scaled_product(x, w1, b1 * SLOPE, SLOPE)
        ctx.save_for_backward(u, w1, w2)
        return _scaled_product(F.silu(u), w2, b2, 1 / SLOPE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        u, w1, w2 = ctx.saved_tensors
        # d silu(u) / SLOPE with du = SLOPE w1 dx: the factors cancel.
        inner = _product(grad_outputs[0], w2.t())
        torch.ops.aten.silu_backward.grad_input(inner, u, grad_input=inner)
        return _product(inner, w1.t()), None, None, None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product x weight^T + bias of matrices, by oneDNN where it can: up to a quarter faster than `F.linear`."""
    if not _has_onednn(x.dtype, x):
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _scaled_product(x: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """The product scale x weight^T + bias."""
    if _has_onednn(x.dtype, x):
        return _product(x, weight, bias / scale).mul_(scale)
    return torch.addmm(bias, x, weight.t(), alpha=scale)  # a GPU's product scales and adds a row by itself


def _has_onednn(dtype: torch.dtype, x: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # Processors without AVX-512 have no such product in bfloat16.
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _precision(x: Tensor) -> torch.dtype:
    """What a product of `x` is computed in, under autocast or not."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _is_frozen_linear(layer: Any) -> bool:
    """Whether the layer is one that is run here: a compiler makes its own of what the library has."""
    if type(layer) is not nn.Linear or torch.compiler.is_compiling():
        return False
    return not any(parameter.requires_grad for parameter in layer.parameters())


def _is_frozen_quick_gelu(mlp: Any) -> bool:
    quick_gelu = type(getattr(mlp, "activation_fn", None)).__name__ == "QuickGELUActivation"
    return quick_gelu and _is_frozen_linear(getattr(mlp, "fc1", None)) and _is_frozen_linear(getattr(mlp, "fc2", None))
