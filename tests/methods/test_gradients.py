"""Saliency, integrated gradients and SmoothGrad against plain derivatives of the library's model in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning.methods.baselines.integrated_gradients import IntegratedGradients, quadrature
from m2ib_lightning.methods.baselines.saliency import Saliency
from m2ib_lightning.methods.baselines.smooth_grad import SmoothGrad
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("count", "steps", "expected"), [(1, 130, [64, 64, 2]), (32, 5, [2, 2, 1]), (65, 3, [1, 1, 1])]
)
def test_no_more_than_64_inputs_are_computed_at_once_but_for_one_place_of_each_pair(count, steps, expected):
    at_once = []

    def gradient(points):
        at_once.append(len(points))
        return 3 * points.square()

    inputs = torch.full((count, 1), 2.0)
    objective = SimpleNamespace(inputs=inputs, emptied=lambda: torch.ones(count, 1), gradient=gradient)
    objective.input_map = lambda values: values.sum(-1)
    found = IntegratedGradients(steps=steps).relevance(objective)
    assert at_once == expected
    torch.testing.assert_close(found, torch.full((count,), 7.0))  # 2^3 - 1^3


def test_a_quadrature_of_one_place_is_the_middle_and_of_two_those_of_gauss():
    assert [values.tolist() for values in quadrature(1)] == [[0.5], [1.0]]
    places, weights = quadrature(2)
    torch.testing.assert_close(places, torch.tensor([0.2113249, 0.7886751]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5]))


def test_smooth_grad_of_another_seed_has_other_noise(backbone, pairs):
    objective = objectives(backbone, backbone.preprocess_pairs(pairs[:1]))["text"]
    own, same, other = (SmoothGrad(seed=seed).noise_of(objective, 1) for seed in (0, 0, 1))
    assert torch.equal(own, same) and not torch.allclose(own, other)
    assert own.shape == (1, *objective.inputs.shape[1:])
