"""Small random checkpoints in the real format, made by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AltCLIPConfig,
    BlipConfig,
    ChineseCLIPConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPSegConfig,
    CLIPTokenizer,
    GemmaTokenizer,
    MetaClip2Config,
    Siglip2Config,
    Siglip2Tokenizer,
    SiglipConfig,
)

from m2ib_lightning.backbones.load import EMBEDDED
from tests.backbones.tokenizers import byte_fallback, sentencepiece, wordpiece

BLOCK = {"intermediate_size": 48, "num_attention_heads": 4}
VISION = {"hidden_size": 32, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8, **BLOCK}
TEXT = {"hidden_size": 24, "num_hidden_layers": 4, "max_position_embeddings": 16, **BLOCK}
BERT = {**TEXT, "initializer_range": 0.1}


def random_clip(
    folder: Path, *, image_layers: int = 4, text_layers: int = 3, eos: int | None = None, **size: Any
) -> Path:
    """Save a random `CLIPModel` with the embedded model's tokenizer, and return its folder.

    Args:
        folder: Where to.
        image_layers: Blocks of the image tower.
        text_layers: Blocks of the text tower.
        eos: What the configuration says EOS is; the tokenizer's by default.
        size: `image_size` (32) and `patch_size` (8).
    """
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED)
    image_size = size.get("image_size", 32)
    config = CLIPConfig(
        projection_dim=20,
        vision_config={**VISION, "num_hidden_layers": image_layers, "hidden_act": "quick_gelu", **size},
        text_config={**TEXT, "num_hidden_layers": text_layers, **_ids(tokenizer, eos)},
    )
    return save(folder, CLIPModel, config, CLIPProcessor(clip_pictures(image_size), tokenizer))


def random_clipseg(folder: Path) -> Path:
    """A random `CLIPSegForImageSegmentation`, whose processor gives larger pictures than its CLIP was trained on."""
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED)
    config = CLIPSegConfig(
        projection_dim=20, vision_config=VISION, text_config=TEXT | _ids(tokenizer), extract_layers=[1, 2], reduce_dim=8
    )
    pictures = transformers.ViTImageProcessorPil(size={"height": 40, "width": 40})
    processor = transformers.CLIPSegProcessor(pictures, tokenizer)
    return save(folder, transformers.CLIPSegForImageSegmentation, config, processor)


def random_metaclip2(folder: Path) -> Path:
    """A random `MetaClip2Model` with a SentencePiece tokenizer, whose EOS is 2 as in the released one."""
    tokenizer = sentencepiece()
    config = MetaClip2Config(projection_dim=20, vision_config=VISION, text_config=TEXT | _ids(tokenizer))
    return save(folder, transformers.MetaClip2Model, config, CLIPProcessor(clip_pictures(32), tokenizer))


def random_altclip(folder: Path) -> Path:
    """A random `AltCLIPModel` with a SentencePiece tokenizer."""
    tokenizer = sentencepiece()
    text = BERT | _ids(tokenizer) | {"project_dim": 28, "max_position_embeddings": 18}
    config = AltCLIPConfig(projection_dim=20, vision_config=VISION, text_config=text)
    return save(folder, transformers.AltCLIPModel, config, transformers.AltCLIPProcessor(clip_pictures(32), tokenizer))


def random_chinese_clip(folder: Path) -> Path:
    """A random `ChineseCLIPModel` with a WordPiece tokenizer."""
    tokenizer = wordpiece()
    config = ChineseCLIPConfig(projection_dim=20, vision_config=VISION, text_config=BERT | _ids(tokenizer))
    pictures = transformers.ChineseCLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    return save(folder, transformers.ChineseCLIPModel, config, transformers.ChineseCLIPProcessor(pictures, tokenizer))


def random_siglip(folder: Path) -> Path:
    """A random `SiglipModel` with Gemma's tokenizer, as SigLIP 2 at fixed resolutions is."""
    tokenizer = byte_fallback(GemmaTokenizer)
    config = SiglipConfig(vision_config=VISION, text_config=TEXT | _ids(tokenizer) | {"projection_size": 32})
    pictures = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return save(folder, transformers.SiglipModel, config, transformers.SiglipProcessor(pictures, tokenizer))


def random_siglip2(folder: Path) -> Path:
    """A random `Siglip2Model`, SigLIP 2 NaFlex."""
    tokenizer = byte_fallback(Siglip2Tokenizer)
    vision = {k: v for k, v in VISION.items() if k != "image_size"} | {"num_patches": 16}
    config = Siglip2Config(vision_config=vision, text_config=TEXT | _ids(tokenizer) | {"projection_size": 32})
    pictures = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    return save(folder, transformers.Siglip2Model, config, transformers.Siglip2Processor(pictures, tokenizer))


def random_align(folder: Path) -> Path:
    """A random `AlignModel`: an EfficientNet of three stages and a BERT."""
    tokenizer = wordpiece()
    vision = {
        "image_size": 64, "in_channels": [32, 16, 24], "out_channels": [16, 24, 40], "kernel_sizes": [3, 3, 5],
        "strides": [1, 2, 2], "expand_ratios": [1, 4, 4], "num_block_repeats": [1, 2, 4], "depthwise_padding": [],
        "squeeze_expansion_ratio": 0.25, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 64,
    }  # fmt: skip
    config = transformers.AlignConfig(projection_dim=40, vision_config=vision, text_config=BERT | _ids(tokenizer))
    pictures = transformers.EfficientNetImageProcessorPil(
        size={"height": 72, "width": 72}, do_center_crop=True, crop_size={"height": 64, "width": 64}
    )
    return save(folder, transformers.AlignModel, config, transformers.AlignProcessor(pictures, tokenizer))


def random_blip(folder: Path) -> Path:
    """A random `BlipForImageTextRetrieval`."""
    tokenizer = wordpiece()
    text = BERT | _ids(tokenizer) | {"encoder_hidden_size": 32, "sep_token_id": tokenizer.sep_token_id}
    config = BlipConfig(image_text_hidden_size=20, vision_config=VISION | {"initializer_range": 0.1}, text_config=text)
    pictures = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.BlipProcessor(pictures, tokenizer)
    return save(folder, transformers.BlipForImageTextRetrieval, config, processor)


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "align": random_align,
    "altclip": random_altclip,
    "blip": random_blip,
    "chinese_clip": random_chinese_clip,
    "clip": random_clip,
    "clipseg": random_clipseg,
    "metaclip2": random_metaclip2,
    "siglip": random_siglip,
    "siglip2": random_siglip2,
}
"""How to make a small checkpoint of each family."""


def save(folder: Path, kind: Any, config: Any, processor: Any) -> Path:
    """Save a random model of a class with its processor, and return the folder."""
    torch.manual_seed(0)
    model = kind(config)
    enlarge(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def enlarge(model: nn.Module) -> None:
    """Random initialisation is tiny; larger weights make rounding errors and mistakes visible."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(2)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))


def clip_pictures(side: int) -> CLIPImageProcessorPil:
    """CLIP's image processor for square pictures."""
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _ids(tokenizer: Any, eos: int | None = None) -> dict[str, Any]:
    """What a text configuration must know of its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id if eos is None else eos,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
