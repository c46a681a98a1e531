"""NIB and Grad-CAM against slow float64 versions on the library's layers."""

import pytest
import torch
from torch.nn import functional as F

from m2ib_lightning.methods.baselines.grad_cam import GradCAM
from m2ib_lightning.methods.baselines.nib import NIB
from tests.methods import reference as slow
from tests.methods.agreement import assert_agrees, read_of


def suffix_cosine(library, modality, batch, x, block):
    """The states behind a block, and the cosine as a function of them."""
    run = library.run(modality, x, batch)
    states = run.states[block][0].detach()
    other = library.embed("text", library.model.text_model.embeddings.token_embedding(batch.input_ids)[0], batch)
    if modality == "text":
        other = library.embed("image", batch.pixel_values[0].double(), batch)
    other, read = other.detach(), read_of(modality, len(states))

    def cosine(h):
        return F.cosine_similarity(slow.library_suffix(library.model, modality, h, block, read), other, dim=0)

    return states, cosine


def test_nib_is_the_sum_of_gradients_along_the_line_from_zero(backbone, library, pairs):
    method = NIB(backbone, image_layer=2, text_layer=0, steps=5)

    def reference(library, modality, batch, x):
        h, cosine = suffix_cosine(library, modality, batch, x, method.layer_of(modality))
        total = torch.zeros_like(h)
        for i in range(1, 6):
            point = (h * i / 5).requires_grad_()
            total += h * torch.autograd.grad(cosine(point), point)[0] / 5
        return total.sum(-1)

    # A model with layer norms hardly changes along h, so that a sum nearly cancels: float32 rounding is left.
    assert_agrees(method, library, pairs, reference, tolerance=0.03)


def test_nibs_own_layer_is_the_released_ninth_of_twelve_counted_as_an_input():
    assert [NIB().default_layer(depth) for depth in (12, 4, 1)] == [8, 1, 0]
    assert [GradCAM().default_layer(depth) for depth in (12, 4)] == [10, 2]


def test_grad_cam_weighs_channels_by_their_mean_gradient(backbone, library, pairs):
    method = GradCAM(backbone)

    def reference(library, modality, batch, x):
        h, cosine = suffix_cosine(library, modality, batch, x, method.layer_of(modality))
        h.requires_grad_()
        g = torch.autograd.grad(cosine(h), h)[0]
        content = range(1, len(h)) if modality == "image" else range(1, len(h) - 1)
        weight = sum(g[i] for i in content) / len(content)
        return torch.stack([(weight @ h[i]).clamp(min=0) * (i in content) for i in range(len(h))])

    assert_agrees(method, library, pairs, reference)


@pytest.mark.parametrize("method", [NIB, GradCAM])
def test_a_layer_that_is_not_there_is_refused(method):
    with pytest.raises(ValueError, match="`image_layer` to be 'embeddings' or a block"):
        method("embedded", image_layer=99).prepare()
