"""open_clip's models against open_clip's own code; skipped where it is not installed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m2ib_lightning import explain
from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.backbones.openclip import OpenClipBackbone
from m2ib_lightning.methods.priors import default_layer
from tests.backbones.compare import TEXTS, compare, pictures
from tests.backbones.openclip_models import openclip_blocks, openclip_features, small_config, small_model, small_texts
from tests.backbones.tokenizers import wordpiece

try:
    import open_clip
    from open_clip.transformer import LayerScale
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
    pytest.skip(f"open_clip is not there: {error}", allow_module_level=True)

READ = {
    "ViT-B-32": ("CLS", "EOS"),
    "RN50": ("attention over all cells", "EOS"),
    "convnext_base": ("mean of all cells", "EOS"),
    "ViT-B-16-SigLIP": ("attention over all patches", "last token"),
    "ViT-L-14-CLIPA": ("mean of patches", "last token"),
    "EVA02-B-16": ("CLS", "EOS"),
    "PE-Core-S-16-384": ("attention over all patches", "EOS"),
    "coca_ViT-B-32": ("attention over all patches", "CLS"),
    "roberta-ViT-B-32": ("CLS", "mean of all tokens"),
}
"""One configuration of each kind, and what its heads read."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.parametrize("name", READ)
def test_suffix_of_prefix_is_open_clips_forward_and_gradient(name, texts):
    backbone = OpenClipBackbone(*small_model(name, texts), name)
    assert (backbone.image.reads, backbone.text.reads) == READ[name]
    for modality in ("image", "text"):
        depth = backbone.tower(modality).depth
        for layer in {"embeddings", 0, depth - 2, default_layer(modality, depth, "measured")}:
            compared = compare(backbone, modality, layer, features=openclip_features, blocks=openclip_blocks)
            assert compared.error("states") < 1e-5 and compared.error("embedding") < 1e-5, layer
            assert compared.error("gradient") < 1e-4, layer


def test_blocks_that_scale_what_they_add_are_open_clips(texts):
    backbone = OpenClipBackbone(*small_model("ViT-B-32", texts), "ViT-B-32")
    for transformer in (backbone.model.visual.transformer, backbone.model.transformer):
        for block in transformer.resblocks:
            block.ls_1, block.ls_2 = (LayerScale(transformer.width, scale) for scale in (0.3, 0.6))
    for modality in ("image", "text"):
        compared = compare(backbone, modality, 0, features=openclip_features, blocks=openclip_blocks)
        assert compared.error("embedding") < 1e-5 and compared.error("gradient") < 1e-4


def test_coca_leaves_one_position_of_a_text_free_for_its_cls(texts):
    backbone = OpenClipBackbone(*small_model("coca_ViT-B-32", texts), "CoCa")
    with pytest.warns(UserWarning, match="the rest is cut"):
        batch = backbone.preprocess(pictures()[:1], ["a cat " * 100])
    assert batch.truncated == (True,) and batch.input_ids.shape[1] == backbone.model.text.context_length - 1


def test_a_text_that_just_fits_is_not_cut(texts):
    backbone = OpenClipBackbone(*small_model("ViT-B-32", texts), "ViT-B-32")
    words = backbone.limit - 2  # between BOS and EOS
    with pytest.warns(UserWarning, match="the rest is cut"):
        batch = backbone.preprocess(pictures()[:2], [" ".join(["a"] * words), " ".join(["a"] * (words + 1))])
    assert batch.truncated == (False, True) and batch.attention_mask.sum(1).tolist() == [backbone.limit] * 2


@pytest.mark.parametrize("name", READ)
def test_maps_of_open_clips_models(name, texts):
    backbone = OpenClipBackbone(*small_model(name, texts), name)
    results = explain(pictures(), TEXTS, backbone=backbone, prior="unit", steps=2, noise_samples=2)
    for result, text in zip(results, TEXTS, strict=True):
        assert result.image_map.shape == backbone.describe()["image"]["grid"]
        assert len(result.text_map) == len(result.tokens) == len(result.spans)
        seen = "".join(text[start:end] for start, end in result.spans)
        assert seen == "".join(text.replace(",", "").split()) or seen == text.replace(" ", "")


@pytest.mark.parametrize(
    "name", ["swin_base_patch4_window7_224", "mt5-base-ViT-B-32", "nllb-clip-base", "MobileCLIP-S1"]
)
def test_models_of_other_kinds_are_refused_by_their_class(name, texts):
    with pytest.raises(ValueError, match=r"(Swin|MT5|M2M100|FastVit).*backbones/base\.py"):
        OpenClipBackbone(*small_model(name, texts), name)


def test_a_local_folder_and_a_local_file_are_read_by_name(texts, tmp_path):
    config = small_config("ViT-B-32", texts)
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    folder = load_backbone(f"open_clip:local-dir:{tmp_path}")
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny.json")
    file = load_backbone(f"open_clip:tiny/{tmp_path}/open_clip_model.safetensors")
    assert folder.weight_hash == file.weight_hash
    wide = load_backbone(f"open_clip:local-dir:{tmp_path}", image_size=(128, 256))
    batch = wide.preprocess(pictures(), TEXTS)
    assert batch.pixel_values.shape[-2:] == (128, 256) and wide.image.grid(batch) == (4, 8)
    assert wide.image.length == 33


def test_a_model_made_like_biomedclip_is_read_from_a_folder(texts, tmp_path):
    """A vision transformer of timm, and a BERT of Hugging Face whose CLS goes through an MLP."""
    config = {
        "embed_dim": 64,
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
                       "timm_proj": "linear", "image_size": 224},
        "text_cfg": {"hf_model_name": str(texts / "bert"), "hf_tokenizer_name": str(texts / "bert"),
                     "hf_model_pretrained": False, "hf_proj_type": "mlp",
                     "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 64},
    }  # fmt: skip
    torch.manual_seed(0)
    save_file(open_clip.CustomTextCLIP(**config).state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    wordpiece().save_pretrained(tmp_path)
    backbone = load_backbone(f"open_clip:local-dir:{tmp_path}")
    assert (backbone.image.reads, backbone.text.reads) == ("CLS", "CLS")
    batch = backbone.preprocess(pictures(), TEXTS)
    assert batch.tokens[1][-4:] == ("um", "bre", "lla", "[SEP]")
    for block in backbone.model.visual.trunk.blocks:
        block.ls1, block.ls2 = LayerScale(192, 0.3), LayerScale(192, 0.6)
    seen = []
    last = backbone.model.visual.trunk.blocks[-1].mlp
    handle = last.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    hidden = backbone.image.prefix(batch, 1)
    backbone.image.suffix(hidden.states[None], hidden, 1)
    handle.remove()
    assert seen == [1]  # the last block computes CLS alone
    for modality in ("image", "text"):
        compared = compare(backbone, modality, 1, features=openclip_features, blocks=openclip_blocks)
        assert compared.error("embedding") < 1e-5 and compared.error("gradient") < 1e-4


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="list_pretrained"):
        load_backbone("open_clip:nothing/nowhere")
