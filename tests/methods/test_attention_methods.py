"""Methods that read attention, against the library's eager attention in float64 with full rows in every block."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from m2ib_lightning.methods.attention import AttentionRecord, attended, attention_of, read_rows
from m2ib_lightning.methods.baselines.attention_rollout import AttentionRollout
from m2ib_lightning.methods.baselines.chefer import Chefer
from m2ib_lightning.methods.baselines.grad_eclip import GradECLIP, loosened
from m2ib_lightning.methods.baselines.le_grad import LeGrad
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


@pytest.mark.parametrize("more", [{"dropout_p": 0.1}, {"enable_gqa": True}])
def test_attention_that_drops_weights_or_shares_keys_is_refused(more):
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"without dropout and grouped queries\. Remedy"):
        attended(q, q, q, **more)


def test_weights_have_a_gradient_of_their_own_only_where_gradients_are_on():
    q = torch.randn(1, 2, 3, 4)
    assert attended(q, q, q).weights.requires_grad
    with torch.no_grad():
        assert not attended(q, q, q).weights.requires_grad
    own = attended(q.clone().requires_grad_(), q, q)
    own.output.sum().backward()
    assert not own.weights.is_leaf


def test_a_head_that_reads_no_token_alone_is_refused_by_what_it_reads():
    hidden = SimpleNamespace(states=torch.zeros(1, 2, 3), read=None)
    tower = SimpleNamespace(depth=0, reads="mean of all cells")
    objective = SimpleNamespace(
        hidden=hidden, tower=tower, modality="image", of_states=lambda states, hidden, layer: torch.zeros(1, 1)
    )
    with pytest.raises(ValueError, match=r"image tower's head to read one token.*it reads mean of all cells\. Remedy"):
        attention_of(objective)
    hidden.read = torch.tensor([0])
    score, calls = attention_of(objective)
    assert score.shape == (1,) and calls == []


def test_the_row_of_the_token_that_is_read_is_taken_of_each_pair_and_head():
    objective = SimpleNamespace(hidden=SimpleNamespace(read=torch.tensor([2, 0])))
    rows = torch.randn(2, 4, 3, 5)
    expected = torch.stack([rows[0, :, 2], rows[1, :, 0]])
    assert torch.equal(read_rows(rows, objective), expected)
    assert torch.equal(read_rows(rows[:, 0], objective), expected[:, 0])
    # Where a block computed that token alone, there is one row.
    assert torch.equal(read_rows(rows[:, :, :1], objective), rows[:, :, 0])


def test_attention_is_loosened_to_0_to_1_over_content_and_a_lone_token_keeps_1():
    # One head; cosines with the query (1, 0): 1, 0.6, 0, 0.8.
    key = torch.tensor([[1.0, 0], [3, 4], [0, 2], [4, 3]]).reshape(1, 1, 4, 2).repeat(2, 1, 1, 1)
    call = SimpleNamespace(query=torch.tensor([[[[1.0, 0]]]]).repeat(2, 1, 1, 1), key=key)
    content = torch.tensor([[False, True, True, True], [False, True, False, False]])
    found = loosened(call, SimpleNamespace(content=content, hidden=SimpleNamespace(read=torch.tensor([0, 0]))))
    torch.testing.assert_close(found[0, 1:], torch.tensor([0.75, 0.0, 1.0]))
    assert found[1, 1] == 1


def test_more_blocks_than_there_are_are_all_of_them(backbone, pairs):
    batch = backbone.preprocess_pairs(pairs[:1])
    depth = backbone.text.depth
    maps = [GradECLIP(backbone, ["text"], text_blocks=n).attribute(batch)[0].text_map for n in (depth, 99)]
    assert (maps[0] == maps[1]).all()
