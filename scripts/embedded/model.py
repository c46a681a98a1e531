"""The tokenizer, the models, how they are trained, written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from m2ib_lightning.data.scenes import Scene, make_caption

from .loss import both_ways, matches, sigmoid_loss
from .stream import SIZE, TEXT_LIMIT
from .terms import TERMS

PATCH = 12
RELATIONS = (" left of ", " right of ", " above ", " below ")
HEAD = 32
"""Width of an attention head."""
Loss = Literal["contrast", "sigmoid"]


class Recipe(NamedTuple):
    """Which model is trained.

    Attributes:
        depth: Blocks of the image tower.
        width: Of both towers and of the shared space, a multiple of 32.
        loss: "contrast" makes a `CLIPModel`, "sigmoid" a `SiglipModel`, whose image tower pools by attention.
        text_depth: Blocks of the text tower.
    """

    depth: int
    width: int
    loss: Loss = "contrast"
    text_depth: int = 4

    @property
    def name(self) -> str:
        """Of the folder that it is kept in."""
        return f"{'clip' if self.loss == 'contrast' else 'siglip'}-{self.depth}x{self.width}"


def train_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with merges learnt from captions: all bytes are known, so any text can be read."""
    rng = np.random.default_rng(0)
    said = [tuple(rng.permutation(TERMS)[: rng.integers(1, 5)].tolist()) for _ in range(20_000)]
    captions = [make_caption(terms, rng, RELATIONS[i % 8] if i % 8 < 4 else None)[0] for i, terms in enumerate(said)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = alphabet + [a + "</w>" for a in alphabet] + [a + b for a, b in merges]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges, model_max_length=TEXT_LIMIT
    )


def make_model(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPModel | SiglipModel:
    """A model with random weights."""
    block = dict(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_attention_heads=recipe.width // HEAD,
        hidden_act="gelu",
    )
    vision = dict(image_size=SIZE, patch_size=PATCH, num_hidden_layers=recipe.depth, **block)
    text = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=TEXT_LIMIT,
        num_hidden_layers=recipe.text_depth,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **block,
    )
    if recipe.loss == "contrast":
        shared = dict(projection_dim=recipe.width)
        config = CLIPConfig(
            logit_scale_init_value=math.log(10.0), vision_config=vision | shared, text_config=text | shared, **shared
        )
        return CLIPModel._from_config(config, attn_implementation="sdpa")
    config = SiglipConfig(vision_config=vision, text_config=text | dict(projection_size=recipe.width))
    model = SiglipModel._from_config(config, attn_implementation="sdpa")
    nn.init.constant_(model.logit_scale, math.log(10.0))
    nn.init.constant_(model.logit_bias, -10.0)
    return model


class Embedder(nn.Module):
    """Unit embeddings of a model, and its loss on a batch."""

    def __init__(self, model: CLIPModel | SiglipModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.is_clip = isinstance(model, CLIPModel)
        mean, std = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD) if self.is_clip else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None] * 255, persistent=False)

    def images(self, pixels: Tensor) -> Tensor:
        """(B, E) from (B, 3, SIZE, SIZE) uint8."""
        pooled = self.model.vision_model((pixels - self.mean) / self.std).pooler_output
        return F.normalize((self.model.visual_projection(pooled) if self.is_clip else pooled).float(), dim=-1)

    def texts(self, tokens: Tensor) -> Tensor:
        """(B, E) from (B, TEXT_LIMIT) token ids.

        CLIP reads EOS, which is also what pads, and nothing behind it; SigLIP reads the last of all tokens.
        """
        if self.is_clip:
            tokens = tokens[:, : int((tokens != self.tokenizer.eos_token_id).sum(1).max()) + 1]
        pooled = self.model.text_model(tokens).pooler_output
        return F.normalize((self.model.text_projection(pooled) if self.is_clip else pooled).float(), dim=-1)

    def captions(self, captions: list[str]) -> Tensor:
        """(B, E)"""
        return self.texts(torch.from_numpy(to_tokens(self.tokenizer, captions)).long().to(self.mean.device)).cpu()

    def pictures(self, scenes: Sequence[Scene]) -> Tensor:
        """(B, E) of the pictures of scenes."""
        pixels = torch.stack([torch.from_numpy(np.array(scene.image)).permute(2, 0, 1) for scene in scenes])
        return torch.cat([self.images(part.to(self.mean.device)).cpu() for part in pixels.split(100)])

    def forward(self, pixels: Tensor, tokens: Tensor, shown: Tensor, named: Tensor) -> Tensor:
        """The contrast of pictures with their captions and with one caption per term; see `stream.Batch`."""
        # Not every processor multiplies in bfloat16; those that do not are ten times slower at it.
        with torch.autocast("cuda", torch.bfloat16, enabled=pixels.is_cuda):
            images, texts = self.images(pixels), self.texts(tokens)
        scale = self.model.logit_scale.exp().clamp(max=50)
        logits = scale * images @ texts.T
        match = torch.cat([matches(shown, named), shown], 1)
        if not self.is_clip:
            return sigmoid_loss(logits + self.model.logit_bias, match)
        count = len(images)
        return both_ways(logits[:, :count], match[:, :count]) + both_ways(logits[:, count:], match[:, count:])


def to_tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> np.ndarray:
    """(captions, TEXT_LIMIT) int16"""
    read = tokenizer(captions, padding="max_length", truncation=True, max_length=TEXT_LIMIT, return_tensors="np")
    return read["input_ids"].astype(np.int16)


def make_optimizers(embedder: Embedder, width: int) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest, with smaller steps for wider models."""
    towers = (embedder.model.vision_model, embedder.model.text_model)
    blocks = [p for tower in towers for p in tower.encoder.parameters() if p.ndim == 2]
    chosen = {id(p) for p in blocks}
    rest = [p for p in embedder.parameters() if id(p) not in chosen]
    slower = (128 / width) ** 0.5
    muon = torch.optim.Muon(blocks, lr=3e-3 * slower, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1.5e-3 * slower, betas=(0.9, 0.98), weight_decay=0.01)
    return [muon, adamw]


def load(folder: Path) -> Embedder:
    """What `export` wrote, in float32."""
    kind: Any = {"clip": CLIPModel, "siglip": SiglipModel}[AutoConfig.from_pretrained(folder).model_type]
    return Embedder(kind.from_pretrained(folder, dtype=torch.float32), CLIPTokenizer.from_pretrained(folder)).eval()


def export(embedder: Embedder, folder: Path) -> None:
    """Write the model (float16), its processor and tokenizer as transformers reads them."""
    deepcopy(embedder.model).half().save_pretrained(folder)
    side = {"height": SIZE, "width": SIZE}
    if embedder.is_clip:
        images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=side)
        CLIPProcessor(images, embedder.tokenizer).save_pretrained(folder)
    else:
        SiglipProcessor(SiglipImageProcessorPil(size=side), embedder.tokenizer).save_pretrained(folder)
