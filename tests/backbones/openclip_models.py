"""Every configuration of open_clip in small: the same kinds of towers, blocks, pooling and masks, random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.types import Modality
from tests.backbones.tokenizers import sentencepiece, wordpiece
from tests.checkpoints import enlarge


def small_config(name: str, texts: Path) -> dict[str, Any]:
    """A configuration of open_clip, a few blocks deep and a few channels wide.

    Args:
        name: Of the configuration.
        texts: The folder of `small_texts`.
    """
    import open_clip

    config = copy.deepcopy(open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    # Where timm has no projection behind the trunk, the trunk's width is the embedding's.
    config["embed_dim"] = config["embed_dim"] if "mci" in vision.get("timm_model_name", "") else 64
    if "timm_model_name" in vision:
        vision["image_size"] = 64
    elif isinstance(vision["layers"], list):
        vision |= {"layers": [1, 1, 1, 4], "width": 16, "image_size": 64}
    else:
        vision |= {"layers": 4, "width": 64, "head_width": 16, "image_size": 4 * vision["patch_size"]}
        vision |= {"attn_pooler_heads": 4} if vision.get("attentional_pool") else {}
    if "hf_model_name" in text:
        kind = next(kind for kind in ("roberta", "mt5", "nllb") if kind in text["hf_model_name"])
        text |= {"hf_model_name": str(texts / kind), "hf_model_pretrained": False}
        text["hf_tokenizer_name"] = str(texts / "roberta")
    else:
        text |= {"width": 64 if text.get("proj_type") == "none" else 32, "heads": 4, "layers": 4}
        if "hf_tokenizer_name" in text:
            text |= {"hf_tokenizer_name": str(texts / "bert"), "vocab_size": 100}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"width": 32, "heads": 4, "layers": 1, "attn_pooler_heads": 4}
    return config


def small_texts(folder: Path) -> Path:
    """Configurations and tokenizers of small text models of Hugging Face, as open_clip asks for them by name."""
    block = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    tokenizer = sentencepiece()
    ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    transformers.RobertaConfig(**block, **ids, max_position_embeddings=82).save_pretrained(folder / "roberta")
    transformers.MT5Config(d_model=32, d_ff=48, num_layers=2, num_heads=4).save_pretrained(folder / "mt5")
    transformers.M2M100Config(d_model=32, encoder_layers=2, decoder_layers=2).save_pretrained(folder / "nllb")
    tokenizer.save_pretrained(folder / "roberta")
    words = wordpiece()
    ids = {"pad_token_id": words.pad_token_id, "vocab_size": len(words)}
    transformers.BertConfig(**block, **ids, max_position_embeddings=80).save_pretrained(folder / "bert")
    words.save_pretrained(folder / "bert")
    return folder


SMALLER: dict[str, dict[str, Any]] = {
    "convnext": {"depths": (1, 1, 1, 4), "dims": (16, 24, 32, 48)},
    "eva": {"embed_dim": 64, "depth": 4, "num_heads": 4, "img_size": 64},
    "vit_base_mci": {"depth": 4, "img_size": 64},
    "vitamin": {"depth": 4, "img_size": 64},
    "vit": {"embed_dim": 64, "depth": 4, "num_heads": 4, "img_size": 64},
}
"""How a family of timm's is made small."""


@contextmanager
def small_timm() -> Iterator[None]:
    """While it is open, timm's models are small."""
    import timm

    create = timm.create_model

    def small(name: str, **arguments: Any) -> nn.Module:
        key = next((key for key in SMALLER if name.startswith(key)), "")
        more = {"attn_pool_num_heads": 4} if "pe_core" in name else {}
        return create(name, **{**SMALLER.get(key, {}), **more, **arguments})

    with patch("timm.create_model", small):
        yield


def small_model(name: str, texts: Path) -> tuple[nn.Module, Any, Any]:
    """A random model of a configuration in small, its transform and its tokenizer."""
    import open_clip

    config = small_config(name, texts)
    torch.manual_seed(0)
    with small_timm(), patch("open_clip.factory.get_model_config", lambda _: copy.deepcopy(config)):
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained_text=False)
        tokenizer = open_clip.get_tokenizer(name)
    enlarge(model)
    for parameter in model.parameters():
        if not torch.isfinite(parameter).all():  # CoCa's decoder leaves a weight as memory had it
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    return model.eval(), transform, tokenizer


def openclip_features(
    backbone: Backbone, modality: Modality, images: Sequence[Image.Image], texts: Sequence[str]
) -> Tensor:
    """(B, E), by open_clip alone."""
    model: Any = backbone.model
    more = {"normalize": False} if type(model).__name__ == "CoCa" else {}
    if modality == "image":
        return model.encode_image(torch.stack([backbone.transform(image) for image in images]), **more)
    return model.encode_text(backbone.tokenizer(list(texts)), **more)


def openclip_blocks(backbone: Backbone, modality: Modality) -> list[nn.Module]:
    """The library's own blocks of a tower, those that can be cut at."""
    model: Any = backbone.model
    part = model.visual if modality == "image" else getattr(model, "text", model)
    inner = getattr(part, "trunk", getattr(part, "transformer", SimpleNamespace()))
    for owner, names in ((inner, ("resblocks", "blocks", "encoder")), (part, ("layer4",))):
        for stack in (getattr(owner, name) for name in names if hasattr(owner, name)):
            return list(getattr(stack, "layer", stack))[-backbone.tower(modality).depth :]
    return list(inner.stages[-1].blocks)[-backbone.tower(modality).depth :]
