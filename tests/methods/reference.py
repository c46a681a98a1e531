"""M2IB once more, slowly and in float64, from the formulas: one pair, one modality, one noise sample at a time.

The part of the model behind the bottleneck is the library's own code, in full.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import CLIPModel


def library_suffix(model: CLIPModel, modality: str, states: Tensor, layer: int, read: int) -> Tensor:
    """Embedding (E,) of the (L, D) states after block `layer` (-1: the embeddings), by the library's layers."""
    tower = model.vision_model if modality == "image" else model.text_model
    length, x = len(states), states[None]
    causal = torch.full((length, length), -math.inf, dtype=states.dtype).triu(1)[None, None]
    for block in tower.encoder.layers[layer + 1 :]:
        x = block(x, attention_mask=causal if modality == "text" else None)
    if modality == "image":
        return model.visual_projection(tower.post_layernorm(x[0, 0]))
    return model.text_projection(tower.final_layer_norm(x[0])[read])


def fit(
    model: CLIPModel, modality: str, states: Tensor, read: int, other: Tensor, noise: list[Tensor], *,
    layer: int, beta: float, lr: float, start: float, mean: Tensor, std: Tensor, held: Tensor | None,
) -> Tensor:  # fmt: skip
    """Nats per token, (L,), after as many Adam steps as there is noise, each of (K, L, D).

    Everything float64; `held` replaces the read-out token, which then has no mask.
    """
    length, width = states.shape
    alpha = torch.full((length, width), start, dtype=torch.float64)
    first, second = torch.zeros_like(alpha), torch.zeros_like(alpha)
    masked = [i for i in range(length) if held is None or i != read]
    x = (states - mean) / std

    def capacity(a: Tensor) -> Tensor:
        lambda_ = 1 / (1 + torch.exp(-a))
        return 0.5 * ((lambda_ * x) ** 2 + (1 - lambda_) ** 2 - 1) - torch.log(1 - lambda_)

    for t, samples in enumerate(noise, start=1):
        a = alpha.clone().requires_grad_()
        lambda_ = 1 / (1 + torch.exp(-a))
        cosines = []
        for eps in samples:
            z = mean + std * (lambda_ * x + (1 - lambda_) * eps[:length])
            if held is not None:
                z = torch.cat([z[:read], held[None], z[read + 1 :]])
            e = library_suffix(model, modality, z, layer, read)
            cosines.append(e @ other / (e.norm() * other.norm()))
        compression = sum(capacity(a)[i].sum() for i in masked) / (len(masked) * width)
        loss = beta * compression - sum(cosines) / len(cosines)
        (gradient,) = torch.autograd.grad(loss, a)
        # Adam (Kingma and Ba 2015) with its defaults.
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        alpha = alpha - lr * (first / (1 - 0.9**t)) / (torch.sqrt(second / (1 - 0.999**t)) + 1e-8)
    nats = capacity(alpha).sum(1)
    if held is not None:
        nats[read] = 0
    return nats
