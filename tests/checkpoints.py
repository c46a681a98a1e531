"""Small random checkpoints in the real format, made by the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from m2ib_lightning.backbones.load import EMBEDDED


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
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED)
    image_size, patch_size = size.get("image_size", 32), size.get("patch_size", 8)
    block = {"intermediate_size": 48, "num_attention_heads": 4}
    config = CLIPConfig(
        projection_dim=20,
        vision_config={"hidden_size": 32, "num_hidden_layers": image_layers, "image_size": image_size,
                       "patch_size": patch_size, "hidden_act": "quick_gelu", **block},
        text_config={"hidden_size": 24, "num_hidden_layers": text_layers, "vocab_size": len(tokenizer),
                     "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id if eos is None else eos,
                     "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id, **block},
    )  # fmt: skip
    model = CLIPModel(config)
    # Random initialisation is tiny; larger weights make rounding errors and mistakes visible.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    crop = {"height": image_size, "width": image_size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=crop)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder
