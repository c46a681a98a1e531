"""Methods that read attention, against the library's eager attention in float64 with full rows in every block."""

import pytest
import torch
from torch.nn import functional as F

from m2ib_lightning.methods import AttentionRollout, Chefer, GradECLIP, LeGrad
from m2ib_lightning.methods.attention import AttentionRecord, attended
from tests.methods.agreement import assert_agrees, read_of


@pytest.mark.parametrize(("first", "scale"), [(0, 100.0), (1, 1.0), (-1, 100.0)])
def test_chefer_relevance_is_that_of_full_matrices(backbone, library, pairs, first, scale):
    def reference(library, modality, batch, x):
        run = library.run(modality, x, batch)
        grads = torch.autograd.grad(scale * run.cosine, run.attention)
        length = run.attention[0].shape[-1]
        r = torch.eye(length, dtype=torch.float64)
        for a, g in list(zip(run.attention, grads, strict=True))[first:]:
            r = r + (a[0] * g[0]).clamp(min=0).mean(0) @ r
        return r[read_of(modality, length)]

    assert_agrees(Chefer(backbone, first_block=first, scale=scale), library, pairs, reference)


def test_rollout_is_the_product_of_full_matrices(backbone, library, pairs):
    def reference(library, modality, batch, x):
        attention = library.run(modality, x, batch).attention
        length = attention[0].shape[-1]
        r = torch.eye(length, dtype=torch.float64)
        for a in attention:
            mixed = 0.5 * a[0].mean(0) + 0.5 * torch.eye(length)
            r = mixed / mixed.sum(-1, keepdim=True) @ r
        return r[read_of(modality, length)]

    assert_agrees(AttentionRollout(backbone), library, pairs, reference)


def test_grad_eclip_weighs_values_by_gradient_and_loosened_attention(backbone, library, pairs):
    def reference(library, modality, batch, x):
        run = library.run(modality, x, batch)
        length = run.attention[0].shape[-1]
        read, last = read_of(modality, length), 1 if modality == "image" else 2
        content = list(range(1, length if modality == "image" else length - 1))
        total = torch.zeros(length, dtype=torch.float64)
        grads = torch.autograd.grad(run.cosine, run.mixed)
        for block in range(len(grads))[-last:]:
            g, q, k, v = grads[block][0][read], run.queries[block][0][read], run.keys[block][0], run.values[block][0]
            near = {i: F.cosine_similarity(q, k[i], dim=0) for i in content}
            low, high = min(near.values()), max(near.values())
            for i in content:
                total[i] += ((g * v[i]).sum() * (near[i] - low) / (high - low)).clamp(min=0)
        return total

    method = GradECLIP(backbone, image_blocks=1, text_blocks=2)
    assert_agrees(method, library, pairs, reference)


@pytest.mark.parametrize("first", [0, -2])
def test_le_grad_sums_positive_gradients_of_attention(backbone, library, pairs, first):
    def reference(library, modality, batch, x):
        run = library.run(modality, x, batch)
        other = library.embed("text", library.model.text_model.embeddings.token_embedding(batch.input_ids)[0], batch)
        if modality == "text":
            other = library.embed("image", batch.pixel_values[0].double(), batch)
        total = 0
        for block in range(len(run.states))[first:]:
            feature = library.head(modality, run.states[block][0].mean(0))
            score = F.cosine_similarity(feature, other.detach(), dim=0)
            g = torch.autograd.grad(score, run.attention[block], retain_graph=True)[0]
            total = total + g[0].clamp(min=0).mean(0).mean(0)
        return total

    assert_agrees(LeGrad(backbone, first_block=first), library, pairs, reference)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_attention_with_explicit_weights_is_that_of_torch(causal, mask):
    if causal and mask:
        pytest.skip("torch takes one of the two")
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 6, generator=generator)
    given = None
    if mask:
        given = torch.rand(2, 1, 5, 5, generator=generator) > 0.3
        given = given | torch.eye(5, dtype=torch.bool)
        given = given if mask == "bool" else torch.where(given, 0.0, -1.0)
    ours = attended(q, k, v, attn_mask=given, is_causal=causal, scale=0.3)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=given, is_causal=causal, scale=0.3)
    torch.testing.assert_close(ours.output, expected)
    torch.testing.assert_close(ours.weights.sum(-1), torch.ones(2, 4, 5))
    if not causal and mask is None:  # what is left out means the same
        torch.testing.assert_close(attended(q, k, v).output, F.scaled_dot_product_attention(q, k, v))


def test_the_record_leaves_nothing_behind():
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ArithmeticError), AttentionRecord() as record:
        F.scaled_dot_product_attention(q, q, q)
        raise ArithmeticError
    F.scaled_dot_product_attention(q, q, q)
    assert len(record.calls) == 1


@pytest.mark.parametrize("method", [Chefer, AttentionRollout, GradECLIP])
def test_a_tower_that_attends_otherwise_is_refused_in_one_line(backbone, pairs, method, monkeypatch):
    monkeypatch.setattr(backbone.image, "depth", 99)
    with pytest.raises(ValueError, match=r"image tower that attends once in each of its 99 blocks.*Remedy"):
        method(backbone).attribute(backbone.preprocess_pairs(pairs[:1]))
