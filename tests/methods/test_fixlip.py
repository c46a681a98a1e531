"""FIxLIP against slow loops over the same masks on the library's model, and against least squares."""

import numpy as np
import torch
from torch.nn import functional as F

from m2ib_lightning.methods.baselines.fixlip import FIxLIP
from m2ib_lightning.methods.objective import objectives
from tests.methods.agreement import assert_agrees
from tests.methods.test_perturbations import masked


@torch.no_grad()
def test_values_are_mean_products_of_scores_and_masks(backbone, library, pairs):
    method = FIxLIP(backbone, samples=12, keep=0.7)

    def reference(library, modality, batch, x):
        f = library.cosine(modality, batch)
        objective = objectives(backbone, batch)[modality]
        masks = method.masks(objective)[0].double().reshape(12, -1)
        masks = masks if modality == "image" else masks[:, 1 : len(x) - 1]
        scores = torch.stack([f(masked(x, cells, objective.grid)) for cells in masks])
        values = torch.stack([((scores - scores.mean()) * (cells - 0.7)).mean() / (0.7 * 0.3) for cells in masks.T])
        return values if modality == "image" else F.pad(values, (1, 1))

    assert_agrees(method, library, pairs[:2], reference, tolerance=1e-3)


@torch.no_grad()
def test_interactions_are_mean_products_over_every_two_masks(backbone, library, pairs):
    method = FIxLIP(backbone, samples=8)
    batch, pixels, embeddings = library.single(backbone, pairs[0])
    (found,) = method.interactions(batch)
    both = objectives(backbone, batch)
    shown = method.masks(both["image"])[0].double().flatten(1)
    read = method.masks(both["text"])[0].double()[:, 0, 1:-1]
    pictures = [F.normalize(library.embed("image", masked(pixels, m, both["image"].grid), batch), dim=0) for m in shown]
    captions = [F.normalize(library.embed("text", masked(embeddings, m, None), batch), dim=0) for m in read]
    scores = torch.stack(pictures) @ torch.stack(captions).T
    scores = scores - scores.mean(0) - scores.mean(1, keepdim=True) + scores.mean()
    expected = (shown - 0.5).T @ scores @ (read - 0.5) / 64 / 0.25**2
    # Special tokens take no part.
    assert (found[..., 0] == 0).all() and (found[..., -1] == 0).all()
    torch.testing.assert_close(found[..., 1:-1].flatten(0, 1), expected.float(), atol=1e-5, rtol=1e-3)


def test_the_coefficients_of_masks_that_are_all_tried_are_those_of_least_squares():
    every = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T.astype(float)
    scores = np.random.default_rng(0).normal(size=16)
    products = [every[:, i] * every[:, j] for i in range(4) for j in range(i)]
    columns = np.column_stack([np.ones(16), every, *products])
    fitted = np.linalg.lstsq(columns, scores, rcond=None)[0][5:]
    formula = [
        np.mean(scores * (every[:, i] - 0.5) * (every[:, j] - 0.5)) / 0.25**2 for i in range(4) for j in range(i)
    ]
    np.testing.assert_allclose(fitted, formula, atol=1e-10)
