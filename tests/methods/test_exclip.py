"""exCLIP against Jacobians of the library's model in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m2ib_lightning.methods.baselines.exclip import ExCLIP
from tests.methods.agreement import per_patch


def given(library, backbone, batch, modality, x):
    """(E, parts) by the library: a slow Jacobian at each of the two points of the Gauss-Legendre quadrature."""
    empty = torch.zeros_like(x)
    if modality == "text":
        empty[[0, -1]] = x[[0, -1]]
    total = 0
    for place in (0.5 - np.sqrt(3) / 6, 0.5 + np.sqrt(3) / 6):
        jacobian = torch.autograd.functional.jacobian(
            lambda y: F.normalize(library.embed(modality, y, batch), dim=0), empty + place * (x - empty)
        )
        total = total + 0.5 * jacobian * (x - empty)
    return total.sum(-1) if modality == "text" else torch.stack([per_patch(row, backbone, batch) for row in total])


@pytest.mark.slow
def test_interactions_are_products_of_integrated_jacobians(backbone, library, pairs):
    batch, pixels, embeddings = library.single(backbone, pairs[0])
    (found,) = ExCLIP(backbone, steps=2).interactions(batch)
    of_patches = given(library, backbone, batch, "image", pixels)
    expected = of_patches.T @ given(library, backbone, batch, "text", embeddings)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.flatten(0, 1).double(), expected, atol=1e-3 * scale, rtol=0)
