"""Saliency, integrated gradients and SmoothGrad against plain derivatives of the library's model in float64."""

import numpy as np
import pytest
import torch

from m2ib_lightning.methods import IntegratedGradients, Saliency, SmoothGrad
from m2ib_lightning.methods.objective import objectives
from tests.methods.agreement import assert_agrees, per_patch


def gradient(f, x):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def collected(values, backbone, modality, batch):
    return per_patch(values, backbone, batch) if modality == "image" else values.sum(-1)


def test_saliency_is_the_absolute_gradient(backbone, library, pairs):
    def reference(library, modality, batch, x):
        return collected(gradient(library.cosine(modality, batch), x).abs(), backbone, modality, batch)

    assert_agrees(Saliency(backbone), library, pairs, reference)


def test_integrated_gradients_are_a_quadrature_of_gradients(backbone, library, pairs):
    def reference(library, modality, batch, x):
        f = library.cosine(modality, batch)
        start = torch.zeros_like(x)
        if modality == "text":
            start[0], start[-1] = x[0], x[-1]  # BOS and EOS stay
        places, weights = np.polynomial.legendre.leggauss(20)
        line = zip((places + 1) / 2, weights / 2, strict=True)
        mean = sum(weight * gradient(f, start + t * (x - start)) for t, weight in line)
        return collected((x - start) * mean, backbone, modality, batch)

    assert_agrees(IntegratedGradients(backbone, steps=20), library, pairs[:2], reference)


def test_integrated_gradients_sum_to_the_fall_of_the_cosine(backbone, library, pairs):
    results = IntegratedGradients(backbone, steps=100).attribute(backbone.preprocess_pairs(pairs[:2]))
    for result, pair in zip(results, pairs, strict=False):
        batch, pixels, embeddings = library.single(backbone, pair)
        for modality, x in (("image", pixels), ("text", embeddings)):
            start = torch.zeros_like(x)
            if modality == "text":
                start[0], start[-1] = x[0], x[-1]
            f = library.cosine(modality, batch)
            found = result.image_map if modality == "image" else result.text_map
            # The cosine turns sharply near the start: 100 points leave a few hundredths.
            assert float(found.sum()) == pytest.approx(float((f(x) - f(start)).detach()), abs=0.05)


def test_integrated_gradients_take_a_few_places_at_a_time(backbone, pairs, monkeypatch):
    objective, at_once = objectives(backbone, backbone.preprocess_pairs(pairs))["text"], []
    monkeypatch.setattr(objective, "gradient", lambda x: (at_once.append(len(x) * x.shape[1]), x)[1])
    IntegratedGradients(backbone, steps=50).relevance(objective)
    assert at_once == [64, 64, 64, 8]


def test_smooth_grad_is_the_mean_of_saliency_at_noisy_inputs(backbone, library, pairs):
    method = SmoothGrad(backbone, samples=3)

    def reference(library, modality, batch, x):
        objective = objectives(backbone, batch)[modality]
        f, width = library.cosine(modality, batch), 0.15 * (x.max() - x.min())
        noise = [method.noise_of(objective, sample)[0].double() for sample in range(3)]
        mean = sum(gradient(f, x + width * eps).abs() for eps in noise) / 3
        return collected(mean, backbone, modality, batch)

    assert_agrees(method, library, pairs, reference)


def test_smooth_grad_without_noise_is_saliency(backbone, pairs):
    batch = backbone.preprocess_pairs(pairs[:1])
    plain, smooth = Saliency(backbone).attribute(batch)[0], SmoothGrad(backbone, spread=0.0).attribute(batch)[0]
    np.testing.assert_allclose(smooth.image_map, plain.image_map, rtol=1e-4)
