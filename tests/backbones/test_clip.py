from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from m2ib_lightning.backbones import Backbone, load_backbone
from tests.checkpoints import random_clip

TEXTS = ["a cat", "a photo of a dog and an umbrella", "look, a key near a star"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(str(random_clip(tmp_path_factory.mktemp("clip"))))


def pictures(count: int = 3, size: tuple[int, int] = (40, 50)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def library_features(backbone: Backbone, modality: str, batch) -> torch.Tensor:
    model = backbone.model
    if modality == "image":
        return model.get_image_features(pixel_values=batch.pixel_values).pooler_output
    return model.get_text_features(input_ids=batch.input_ids, attention_mask=batch.attention_mask).pooler_output


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("layer", ["embeddings", 0, 1])
def test_suffix_of_prefix_is_the_librarys_forward(backbone, modality, layer):
    batch = backbone.preprocess(pictures(), TEXTS)
    hidden = backbone.tower(modality).prefix(batch, layer)
    ours = backbone.tower(modality).suffix(hidden.states[None].expand(2, -1, -1, -1), hidden, layer)
    expected = library_features(backbone, modality, batch)
    for sample in ours:
        torch.testing.assert_close(sample, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_gradients_of_the_suffix_are_the_librarys(backbone, modality):
    batch = backbone.preprocess(pictures(), TEXTS)
    tower, layer = backbone.tower(modality), 1
    hidden = tower.prefix(batch, layer)
    states = hidden.states.clone().requires_grad_()
    weight = torch.randn(3, 20)
    (tower.suffix(states[None], hidden, layer)[0] * weight).sum().backward()

    # The library's own forward, its states after the block replaced by a leaf.
    leaf = hidden.states.clone().requires_grad_()
    model = backbone.model.vision_model if modality == "image" else backbone.model.text_model
    handle = model.encoder.layers[layer].register_forward_hook(lambda *_: leaf)
    try:
        (library_features(backbone, modality, batch) * weight).sum().backward()
    finally:
        handle.remove()
    # What stands behind EOS has no gradient in either; elsewhere float32 rounding.
    torch.testing.assert_close(states.grad, leaf.grad, rtol=1e-4, atol=1e-6)


def test_a_text_has_the_same_embedding_alone_and_padded_by_a_longer_one(backbone):
    together = backbone.embed("text", backbone.preprocess(pictures(), TEXTS))
    for i, text in enumerate(TEXTS):
        alone = backbone.embed("text", backbone.preprocess(pictures(1), [text]))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-6)


def test_checkpoints_from_before_eos_was_known_read_the_largest_id(tmp_path):
    backbone = load_backbone(str(random_clip(tmp_path, eos=2)))
    batch = backbone.preprocess(pictures(), TEXTS)
    torch.testing.assert_close(
        backbone.embed("text", batch), library_features(backbone, "text", batch), rtol=1e-5, atol=1e-5
    )


def test_tokens_spans_and_special_tokens_are_the_texts(backbone):
    batch = backbone.preprocess(pictures(), TEXTS)
    hidden = backbone.text.prefix(batch, "embeddings")
    assert batch.tokens[0] == ("<|startoftext|>", "a", "cat", "<|endoftext|>")
    assert [TEXTS[1][start:end] for start, end in batch.spans[1][1:-1]] == TEXTS[1].split()
    assert hidden.special[0, :4].tolist() == [True, False, False, True]
    assert hidden.special[0, 4:].all() and not hidden.valid[0, 4:].any()


def test_a_text_over_the_limit_is_cut_with_a_warning_and_keeps_eos(backbone):
    long = " ".join(["a cat and a dog"] * 10)
    with pytest.warns(UserWarning, match="more than the 16 tokens"):
        batch = backbone.preprocess(pictures(2), ["a cat", long])
    assert batch.truncated == (False, True)
    assert len(batch.tokens[1]) == 16 and batch.tokens[1][-1] == "<|endoftext|>"
    assert backbone.text.prefix(batch, "embeddings").read.tolist() == [3, 15]


def test_grid_is_read_from_the_model(backbone, tmp_path):
    batch = backbone.preprocess(pictures(1), ["a cat"])
    assert backbone.image.grid(batch) == (4, 4) and backbone.text.grid(batch) is None
    other = load_backbone(str(random_clip(tmp_path, image_size=48, patch_size=16)))
    assert other.image.grid(other.preprocess(pictures(1), ["a cat"])) == (3, 3)


def test_an_empty_text_is_refused(backbone):
    with pytest.raises(ValueError, match="caption for pair 1"):
        backbone.preprocess(pictures(2), ["a cat", " "])


def test_numbers_of_images_and_texts_must_agree(backbone):
    with pytest.raises(ValueError, match="as many images as texts"):
        backbone.preprocess(pictures(2), ["a cat"])


@pytest.mark.parametrize("layer", [-1, 3, 12, "last"])
def test_a_layer_the_tower_cannot_be_cut_at_is_refused(backbone, layer):
    with pytest.raises(ValueError, match=r"0\.\.2 but got"):
        backbone.image.check_layer(layer)


def test_a_backbone_is_frozen_and_stays_in_evaluation_mode(backbone):
    backbone.train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.model.modules())


def test_a_mask_with_a_row_for_each_query_is_read_at_the_query_that_the_head_reads(backbone, monkeypatch):
    tower, hidden = backbone.image, backbone.image.prefix(backbone.preprocess(pictures(), TEXTS), 0)
    length = hidden.states.shape[1]
    mask = torch.rand(3, 1, length, length, generator=torch.Generator().manual_seed(0)) > 0.5
    mask |= torch.eye(length, dtype=torch.bool)
    monkeypatch.setattr(tower, "mask", lambda valid: mask)
    read, states = torch.tensor([2, 0, 1]), hidden.states
    for block in tower.blocks[1:]:
        states = block(states, states, mask, False)
    expected = tower.head(states[torch.arange(3), read], hidden.valid)
    found = tower.suffix(hidden.states[None], hidden._replace(read=read), 0)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_weight_hash_tells_models_apart(backbone, tmp_path):
    same = load_backbone(backbone.name)
    other = load_backbone(str(random_clip(tmp_path, text_layers=2)))
    assert same.weight_hash == backbone.weight_hash != other.weight_hash
    layer = nn.Linear(2, 2)
    by_name = [Backbone.weight_hash.func(SimpleNamespace(model=nn.ModuleDict({n: layer}))) for n in "ab"]
    assert by_name[0] != by_name[1]
    assert Path(backbone.name).is_dir()
