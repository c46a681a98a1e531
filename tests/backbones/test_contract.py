"""What every family promises, against its library's own code, on small random checkpoints read from disk."""

import json
import warnings

import pytest
import torch
from transformers import SiglipTokenizer
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from m2ib_lightning import explain
from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.backbones.align import AlignBackbone
from m2ib_lightning.backbones.altclip import AltCLIPBackbone
from m2ib_lightning.backbones.blip import BlipBackbone
from m2ib_lightning.backbones.chinese_clip import ChineseCLIPBackbone
from m2ib_lightning.backbones.clip import CLIPBackbone
from m2ib_lightning.backbones.clipseg import CLIPSegBackbone
from m2ib_lightning.backbones.convolution import ConvolutionalTower
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.backbones.metaclip2 import MetaCLIP2Backbone
from m2ib_lightning.backbones.siglip import SiglipBackbone
from m2ib_lightning.backbones.siglip2 import Siglip2Backbone
from m2ib_lightning.backbones.suffixes import Suffixes
from m2ib_lightning.backbones.towers import BertTextTower, ClsImageTower, EosTextTower
from m2ib_lightning.errors import MissingExtra
from m2ib_lightning.methods.priors import default_layer
from tests.backbones.compare import TEXTS, behind, compare, library_features, pictures
from tests.checkpoints import CHECKPOINTS

RESIZABLE = sorted(set(CHECKPOINTS) - {"siglip2"})
FULL_LENGTH = ("siglip", "siglip2")


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS))
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(str(CHECKPOINTS[request.param](tmp_path_factory.mktemp(request.param))))


OWN: dict[str, tuple] = {
    "align": (AlignBackbone, ConvolutionalTower, BertTextTower, 3, 16, (64, 64), (8, 8)),
    "altclip": (AltCLIPBackbone, ClsImageTower, BertTextTower, 4, 16, (32, 32), (4, 4)),
    "blip": (BlipBackbone, ClsImageTower, BertTextTower, 4, 16, (32, 32), (4, 4)),
    "chinese_clip": (ChineseCLIPBackbone, ClsImageTower, BertTextTower, 4, 16, (32, 32), (4, 4)),
    "clip": (CLIPBackbone, ClsImageTower, EosTextTower, 4, 16, (32, 32), (4, 4)),
    "clipseg": (CLIPSegBackbone, ClsImageTower, EosTextTower, 4, 16, (40, 40), (5, 5)),
    "metaclip2": (MetaCLIP2Backbone, ClsImageTower, EosTextTower, 4, 16, (32, 32), (4, 4)),
    "siglip": (SiglipBackbone, None, None, 4, 16, (32, 32), (4, 4)),
    "siglip2": (Siglip2Backbone, None, None, 4, 16, (32, 32), (4, 4)),
}
"""Of each family its class, those of its towers, blocks of the image, tokens of a text, pixels and patches."""


def test_each_family_is_read_by_its_own_class_at_the_size_of_its_processor_and_the_length_of_its_positions(
    backbone, request
):
    kind, image, text, blocks, tokens, pixels, grid = OWN[request.node.callspec.params["backbone"]]
    assert type(backbone) is kind and isinstance(backbone, HuggingFaceBackbone) and not backbone.resized
    assert image is None or (isinstance(backbone.image, image) and isinstance(backbone.text, text))
    said = backbone.describe()
    assert (said["image"]["blocks"], said["text"]["most tokens"]) == (blocks, tokens)
    assert (backbone.image_size, said["image"]["grid"]) == (pixels, grid)
    assert backbone.image.length == grid[0] * grid[1] + backbone.image.prefix_tokens
    batch = backbone.preprocess(pictures()[:1], TEXTS[:1])
    assert batch.pixel_values.shape[-2:] == pixels or kind is Siglip2Backbone
    assert not backbone.image.reads_padding


@pytest.mark.parametrize("modality", ["image", "text"])
def test_suffix_of_prefix_is_the_librarys_forward_and_gradient(backbone, modality):
    """With texts padded to the longest, at the default layers and two others."""
    depth = backbone.tower(modality).depth
    for layer in {"embeddings", 0, depth - 2, *(default_layer(modality, depth, p) for p in ("unit", "measured"))}:
        compared = compare(backbone, modality, layer)
        # Two ways to add up the same float32 numbers through four blocks.
        assert compared.error("states") < 1e-5 and compared.error("embedding") < 1e-5, layer
        assert compared.error("gradient") < 1e-4, layer
        assert compared.gradient[1].abs().max() > 1e-4, "the gradient must say something"


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_pair_has_the_same_embedding_alone_and_in_a_batch(backbone, modality):
    together = backbone.embed(modality, backbone.preprocess(pictures(), TEXTS))
    for i, (image, text) in enumerate(zip(pictures(), TEXTS, strict=True)):
        alone = backbone.embed(modality, backbone.preprocess([image], [text]))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_samples_are_computed_apart(backbone):
    batch = backbone.preprocess(pictures(), TEXTS)
    for modality in ("image", "text"):
        tower = backbone.tower(modality)
        hidden = tower.prefix(batch, 0)
        other = hidden.states + 0.1 * torch.randn_like(hidden.states)
        both = tower.suffix(torch.stack([hidden.states, other]), hidden, 0)
        torch.testing.assert_close(both[1], tower.suffix(other[None], hidden, 0)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_copy_in_bfloat16_gives_nearly_the_same_embeddings_and_gradients(backbone, modality):
    found = behind(backbone, modality, Suffixes(backbone), autocast=torch.bfloat16)
    for low, exact in zip(found, behind(backbone, modality), strict=True):
        assert low.dtype == torch.float32 and not torch.equal(low, exact)
        assert (low - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_blocks_of_a_kind_share_compiled_code_and_keep_their_own_weights(backbone, modality, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    found = behind(backbone, modality, Suffixes(backbone, compiled=True))
    assert len(compiled) == 1
    for ours, exact in zip(found, behind(backbone, modality), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-6)


def test_the_model_is_as_it_was_after_an_explanation(backbone):
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    explain(pictures(), TEXTS, backbone=backbone, prior="unit", steps=2, noise_samples=2, batch_size=1)
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    for module in backbone.model.modules():
        assert not (module.training or module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


def test_maps_have_the_grid_of_the_picture_and_the_tokens_of_the_text(backbone):
    results = explain(pictures(), TEXTS, backbone=backbone, prior="unit", steps=2, noise_samples=2, batch_size=1)
    for result, image, text in zip(results, pictures(), TEXTS, strict=True):
        assert result.image_map.shape == backbone.image.grid(backbone.preprocess([image], [text]))
        assert (result.image_map > 0).all() and len(result.text_map) == len(result.tokens)
        assert result.heatmap((40, 50)).max() > 0.8


def test_spans_are_the_words_of_the_text_and_special_tokens_have_none(backbone):
    batch = backbone.preprocess(pictures(), TEXTS)
    special = backbone.text.prefix(batch, "embeddings").special
    for i, text in enumerate(TEXTS):
        inside = [span for span, no_text in zip(batch.spans[i], special[i].tolist(), strict=False) if not no_text]
        assert "".join(text[a:b] for a, b in inside) == text.replace(" ", "")
        assert all(span == (0, 0) for span, s in zip(batch.spans[i], special[i].tolist(), strict=False) if s)


def test_a_text_over_the_limit_is_cut_and_marked(backbone):
    limit = backbone.text.length
    with pytest.warns(UserWarning, match=f"more than the {limit} tokens"):
        batch = backbone.preprocess(pictures()[:2], ["a cat", "a cat and a dog " * 20])
    assert batch.truncated == (False, True) and batch.input_ids.shape[1] == limit
    assert bool(backbone.text.prefix(batch, "embeddings").special[1, 0]) == (backbone.text.prefix_tokens == 1)


def test_padding_is_hidden_unless_the_model_was_trained_to_read_it(backbone, request):
    batch = backbone.preprocess(pictures(), TEXTS)
    hidden = backbone.text.prefix(batch, "embeddings")
    if request.node.callspec.params["backbone"] in FULL_LENGTH:
        assert hidden.valid.all() and batch.input_ids.shape[1] == len(batch.tokens[0]) == backbone.text.length
        assert hidden.special[0].sum() == backbone.text.length - 2, "EOS and padding, after two words"
    else:
        assert (hidden.valid.sum(1) == torch.tensor([len(tokens) for tokens in batch.tokens])).all()
        assert (hidden.special | hidden.valid).all()


def test_what_was_inferred_is_described(backbone):
    said = backbone.describe()
    batch = backbone.preprocess(pictures()[:1], TEXTS[:1])
    hidden = backbone.image.prefix(batch, "embeddings")
    assert said["image"]["prefix tokens"] == int(hidden.special[0, : hidden.valid.sum()].sum())
    assert said["class"] == type(backbone.model).__name__ and said["text"]["most tokens"] == backbone.text.length
    assert (hidden.read is None) == said["image"]["head reads"].endswith(("patches", "cells"))


@pytest.mark.parametrize("family", RESIZABLE)
def test_larger_pictures_that_are_not_square_are_read_as_the_library_does(family, tmp_path):
    folder = CHECKPOINTS[family](tmp_path)
    backbone = load_backbone(str(folder), image_size=(48, 64))
    batch = backbone.preprocess(pictures(), TEXTS)
    assert batch.pixel_values.shape == (3, 3, 48, 64)
    more = {} if family == "align" else {"interpolate_pos_encoding": True}
    if family == "blip":
        states = backbone.model.vision_model(batch.pixel_values, **more).last_hidden_state
        expected = backbone.model.vision_proj(states[:, 0])
    else:
        expected = backbone.model.get_image_features(batch.pixel_values, **more).pooler_output
    torch.testing.assert_close(backbone.embed("image", batch), expected, rtol=1e-4, atol=1e-5)
    rows, columns = backbone.image.grid(batch)
    assert rows * 4 == columns * 3 and rows * columns + backbone.image.prefix_tokens == backbone.image.length


@pytest.mark.parametrize("family", [f for f in RESIZABLE if f != "align"] + ["siglip2"])
def test_sizes_that_are_not_whole_patches_are_refused(family, tmp_path):
    with pytest.raises(ValueError, match="multiples of 8"):
        load_backbone(str(CHECKPOINTS[family](tmp_path)), image_size=(48, 50))


def test_naflex_reads_each_picture_in_its_own_proportions(tmp_path):
    folder = str(CHECKPOINTS["siglip2"](tmp_path))
    backbone = load_backbone(folder)
    wide = pictures(((20, 80), (80, 20), (40, 40)))
    batch = backbone.preprocess(wide, TEXTS)
    assert backbone.image.grids(batch) == [(2, 8), (8, 2), (4, 4)]
    torch.testing.assert_close(
        backbone.embed("image", batch), library_features(backbone, "image", wide, TEXTS), rtol=1e-4, atol=1e-5
    )
    assert batch.views == ((0.0, 0.0, 1.0, 1.0),) * 3
    for some in ([0, 1, 2], [0, 1]):
        with pytest.raises(ValueError, match="batch_size=1"):
            backbone.image.grid(batch.keep(some))
    assert backbone.image.grid(batch.keep([1, 1])) == (8, 2)
    fixed = load_backbone(folder, image_size=(32, 64))
    assert fixed.image.grids(fixed.preprocess(wide, TEXTS)) == [(4, 8)] * 3 and fixed.image.length == 32


def test_a_class_of_a_known_library_that_has_no_contrastive_pair_is_refused(tmp_path):
    folder = CHECKPOINTS["blip"](tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("BlipForImageTextRetrieval", "BlipForConditionalGeneration"))
    with pytest.raises(ValueError, match=r"BlipForConditionalGeneration.*backbones/base\.py"):
        load_backbone(str(folder))


def test_loading_says_nothing(tmp_path, capfd):
    folder = CHECKPOINTS["clipseg"](tmp_path)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(str(folder))
    assert capfd.readouterr() == ("", "")


def test_siglips_own_sentencepiece_tokenizer_is_read_and_asked_for(tmp_path):
    """It knows no offsets and needs a library that the package does not."""
    folder = CHECKPOINTS["siglip"](tmp_path / "model")
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"tokenizer_class": "SiglipTokenizer"}))
    if not (is_sentencepiece_available() and is_protobuf_available()):
        with pytest.raises(MissingExtra, match=r"m2ib_lightning\[sentencepiece\]"):
            load_backbone(str(folder))
        return
    import sentencepiece

    (tmp_path / "words.txt").write_text("\n".join(["a photo of a cat", "a dog and an umbrella"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=22, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    SiglipTokenizer(str(tmp_path / "spiece.model"), model_max_length=16).save_pretrained(folder)
    backbone = load_backbone(str(folder))
    text = "A cat, an Umbrella!"
    batch = backbone.preprocess(pictures()[:1], [text])
    assert batch.input_ids.shape == (1, 16) and batch.attention_mask.all()
    seen = "".join(text[start:end] for start, end in batch.spans[0])
    assert seen == "AcatanUmbrella", "its tokenizer drops punctuation"
    assert compare(backbone, "text", 0, texts=[text] * 3).error("embedding") < 1e-5
