#!/usr/bin/env python
"""Train the CLIP that the package carries, on composed scenes, and write it with its model card.

    python scripts/train_embedded_clip.py --scenes 350000 --folder outputs/embedded_clip

Started again with the same folder it goes on from the last checkpoint there; a larger or smaller `--scenes` then moves
the end. `--evaluate` measures the checkpoint that is in the package and trains nothing.

What is optimised, all terms from one batch of scenes:

- contrast of captions and pictures. A caption matches every picture that shows all it names, so in-batch pairs that
  match by chance are positives and not, as in plain InfoNCE, wrong negatives;
- the same contrast against one caption per known name;
- an auxiliary head that tells which object covers each patch. It makes the image tower learn several times faster and
  is thrown away at the end, as is the only other thing that knows more than pictures and captions.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from m2ib_lightning.data.scenes import Scene, make_caption, make_scene, object_names

FIRST_TRAINING_SEED = 1_000_000
"""Scenes below it are never trained on."""
SIZE, PATCH, WIDTH, TEXT_LIMIT = 96, 12, 128, 32
BATCH = 128
PACKAGED = Path(__file__).parent.parent / "m2ib_lightning" / "assets" / "embedded_clip"


def train_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with merges learnt from captions: all bytes are known, so any text can be read."""
    rng = np.random.default_rng(0)
    names = object_names()
    captions = [make_caption(tuple(rng.permutation(names)[: rng.integers(1, 5)]), rng)[0] for _ in range(20_000)]
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


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of 2.2 million parameters: 6 image blocks on an 8 x 8 grid, 4 text blocks, both 128 wide."""
    block = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=4, hidden_act="gelu")
    special = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    config = CLIPConfig(
        projection_dim=WIDTH,
        logit_scale_init_value=math.log(10.0),
        vision_config=dict(image_size=SIZE, patch_size=PATCH, num_hidden_layers=6, projection_dim=WIDTH, **block),
        text_config=dict(
            vocab_size=len(tokenizer),
            max_position_embeddings=TEXT_LIMIT,
            num_hidden_layers=4,
            projection_dim=WIDTH,
            **block,
            **special,
        ),
    )
    # On processors, attention in bfloat16 is several times faster as plain matrix products.
    return CLIPModel._from_config(config, attn_implementation="eager")


class Example(NamedTuple):
    pixels: Tensor
    """(3, SIZE, SIZE) uint8"""
    caption: str
    shown: Tensor
    """(names,) bool"""
    named: Tensor
    """(names,) bool"""
    cover: Tensor
    """(patches, names + 1), share of each patch that an object covers, the background last"""


class Scenes(Dataset):
    """Scenes of one to four objects with one or more of them named."""

    def __init__(self, first: int, last: int) -> None:
        self.seeds = range(first, last)
        self.index = {name: i for i, name in enumerate(object_names())}

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, item: int) -> Example:
        seed = self.seeds[item]
        rng = np.random.default_rng((seed, 1))
        objects = int(rng.choice((1, 2, 3, 4), p=(0.15, 0.2, 0.4, 0.25)))
        scene = make_scene(seed, objects, int(rng.integers(1, objects + 1)), SIZE)
        shown, named = torch.zeros(2, len(self.index), dtype=torch.bool)
        grid = SIZE // PATCH
        patches = scene.labels.reshape(grid, PATCH, grid, PATCH)
        cover = torch.zeros(grid * grid, len(self.index) + 1)
        for i, thing in enumerate(scene.objects):
            column = self.index[thing.name]
            shown[column], named[column] = True, thing.named
            cover[:, column] = torch.from_numpy((patches == i).mean((1, 3), dtype=np.float32).reshape(-1))
        cover[:, -1] = 1 - cover.sum(1)
        return Example(pixels_of(scene), scene.caption, shown, named, cover)


def pixels_of(scene: Scene) -> Tensor:
    """(3, size, size) uint8"""
    return torch.from_numpy(np.asarray(scene.image).copy()).permute(2, 0, 1)


def normalise(pixels: Tensor) -> Tensor:
    """Pixel values as CLIP's image processor makes them, (B, 3, SIZE, SIZE) from uint8."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    return (pixels / 255 - mean[:, None, None]) / std[:, None, None]


def name_captions(names: Sequence[str], rng: np.random.Generator | None) -> list[str]:
    """A caption for each name, in random phrasings or, without a generator, "a photo of a ..."."""
    if rng is not None:
        return [make_caption((name,), rng)[0] for name in names]
    return [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]


def multi_positive_loss(logits: Tensor, match: Tensor) -> Tensor:
    """Mean over the matches of -log p(match | it and all that do not match), rows being softmaxes.

    Supervised contrast (Khosla et al. 2020, "out") with the other positives left out of the denominator.
    """
    negatives = logits.masked_fill(match, -torch.inf).logsumexp(1, keepdim=True)
    per_match = F.softplus(negatives - logits) * match
    return (per_match.sum(1) / match.sum(1).clamp(min=1)).sum() / match.any(1).sum().clamp(min=1)


class Embedder:
    """Embeddings of the model under training, and its auxiliary head."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.patch_head = nn.Linear(WIDTH, len(object_names()) + 1)

    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, WIDTH) and patch logits (B, patches, names + 1)."""
        out = self.model.vision_model(normalise(pixels))
        embedding = self.model.visual_projection(out.pooler_output)
        patches = self.model.vision_model.post_layernorm(out.last_hidden_state[:, 1:])
        return F.normalize(embedding.float(), dim=-1), self.patch_head(patches).float()

    def texts(self, captions: list[str]) -> Tensor:
        """Unit embeddings (B, WIDTH)."""
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        return F.normalize(self.model.get_text_features(**tokens).pooler_output.float(), dim=-1)

    def scenes(self, scenes: Sequence[Scene]) -> Tensor:
        """Unit embeddings (B, WIDTH) of the pictures of scenes."""
        pixels = torch.stack([pixels_of(scene) for scene in scenes])
        return torch.cat([self.images(part)[0] for part in pixels.split(100)])

    def contrast(
        self, images: Tensor, captions: Sequence[str], names: Sequence[str], shown: Tensor, named: Tensor
    ) -> dict[str, Tensor]:
        """Losses between pictures and their captions, and between pictures and one caption per name.

        Args:
            images: (B, WIDTH), unit embeddings.
            captions: B; each matches every picture that shows all it names.
            names: N captions; each matches every picture that shows what it names.
            shown: (B, N) bool, what is in the pictures.
            named: (B, N) bool, what the captions name.
        """
        texts = self.texts([*captions, *names])
        scale = self.model.logit_scale.exp().clamp(max=50)
        match = ~(named[None] & ~shown[:, None]).any(-1)
        to_texts = scale * images @ texts[: len(captions)].T
        to_names = scale * images @ texts[len(captions) :].T
        return {
            "image_to_text": multi_positive_loss(to_texts, match),
            "text_to_image": multi_positive_loss(to_texts.T, match.T),
            "image_to_name": multi_positive_loss(to_names, shown),
            "name_to_image": multi_positive_loss(to_names.T, shown.T),
        }

    def loss(self, batch: tuple, rng: np.random.Generator, patch_weight: float) -> tuple[Tensor, dict[str, float]]:
        pixels, captions, shown, named, cover = batch
        images, patches = self.images(pixels)
        terms = self.contrast(images, captions, name_captions(object_names(), rng), shown, named)
        terms["patches"] = -(cover * patches.log_softmax(-1)).sum(-1).mean()
        total = sum(terms.values()) - (1 - patch_weight) * terms["patches"]
        return total, {name: term.item() for name, term in terms.items()}


@torch.no_grad()
def evaluate(embedder: Embedder, count: int = 1000, seed: int = 0) -> dict[str, float]:
    """The three numbers of the model card, over `count` scenes each that start at `seed`."""
    names = {name: i for i, name in enumerate(object_names())}
    bank = embedder.texts(name_captions(object_names(), None))
    one = [make_scene(seed + i, 1, 1, SIZE) for i in range(count)]
    truth = torch.tensor([names[s.objects[0].name] for s in one])
    first = (embedder.scenes(one) @ bank.T).argmax(1) == truth
    three = [make_scene(seed + count + i, 3, 3, SIZE) for i in range(count)]
    images = embedder.scenes(three)
    truth = torch.tensor([[names[o.name] for o in s.objects] for s in three])
    best = (images @ bank.T).topk(3).indices
    recall = (best[:, :, None] == truth[:, None]).any(1)
    texts = embedder.texts([s.caption for s in three])
    right = [
        (i @ t.T).argmax(1) == torch.arange(len(i)) for i, t in zip(images.split(100), texts.split(100), strict=True)
    ]
    return {
        "one object, right name first": first.float().mean().item(),
        "three objects, recall of the three among the top three": recall.float().mean().item(),
        "100 scenes of three, right caption first": torch.cat(right).float().mean().item(),
    }


def make_optimizers(embedder: Embedder) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    blocks = [
        p
        for tower in (embedder.model.vision_model, embedder.model.text_model)
        for p in tower.encoder.parameters()
        if p.ndim == 2
    ]
    chosen = {id(p) for p in blocks}
    rest = [p for p in [*embedder.model.parameters(), *embedder.patch_head.parameters()] if id(p) not in chosen]
    muon = torch.optim.Muon(blocks, lr=3e-3, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01)
    return [muon, adamw]


def rate(step: int, steps: int) -> float:
    """Warm up for 200 steps, hold, fall linearly to nothing over the last 35 %."""
    return min(1.0, (step + 1) / 200, (steps - step) / (0.35 * steps))


def train(embedder: Embedder, folder: Path, scenes: int) -> None:
    """Train up to `scenes` scenes, from the checkpoint in `folder` if there is one."""
    steps, done = scenes // BATCH, 0
    optimizers = make_optimizers(embedder)
    schedulers_base = [o.param_groups[0]["lr"] for o in optimizers]
    last = folder / "last.pt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        embedder.model.load_state_dict(state["model"])
        embedder.patch_head.load_state_dict(state["patch_head"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        done = state["step"]
    seen = Scenes(FIRST_TRAINING_SEED + done * BATCH, FIRST_TRAINING_SEED + steps * BATCH)
    loader = DataLoader(seen, BATCH, num_workers=1, prefetch_factor=8)
    started, mean = time.monotonic(), {}
    for step, batch in enumerate(loader, start=done):
        for optimizer, base in zip(optimizers, schedulers_base, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            # The patch head teaches first and fades: from 1 to 0.2 over the first 40 % of the steps.
            loss, terms = embedder.loss(batch, np.random.default_rng((step, 2)), max(0.2, 1 - 2 * step / steps))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for name, value in terms.items():
            mean[name] = value if name not in mean else 0.98 * mean[name] + 0.02 * value
        if (step + 1) % 100 == 0:
            pace = (step + 1 - done) * BATCH / (time.monotonic() - started)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            print(f"step {step + 1}/{steps}  {pace:.0f} scenes/s  {shown}", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(last, embedder, optimizers, step + 1)
            print(json.dumps(evaluate(embedder, 300)), flush=True)


def save(path: Path, embedder: Embedder, optimizers: list, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = dict(
        model=embedder.model.state_dict(),
        patch_head=embedder.patch_head.state_dict(),
        optimizers=[o.state_dict() for o in optimizers],
        step=step,
    )
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def load(folder: Path) -> Embedder:
    """What `export` wrote, in float32."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return Embedder(model, CLIPTokenizer.from_pretrained(folder))


def export(embedder: Embedder, folder: Path) -> None:
    """Write the model (float16), its processor and tokenizer as transformers reads them."""
    embedder.model.half().save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    CLIPProcessor(images, embedder.tokenizer).save_pretrained(folder)
    embedder.model.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=350_000, help="scenes to train on")
    parser.add_argument("--folder", type=Path, default=Path("outputs/embedded_clip"), help="where checkpoints are kept")
    parser.add_argument("--to", type=Path, default=PACKAGED, help="where the finished model is written")
    parser.add_argument("--evaluate", action="store_true", help="measure the model in --to and stop")
    arguments = parser.parse_args()
    if arguments.evaluate:
        embedder = load(arguments.to)
    else:
        torch.manual_seed(0)
        tokenizer = train_tokenizer()
        embedder = Embedder(make_model(tokenizer), tokenizer)
        train(embedder, arguments.folder, arguments.scenes)
        export(embedder, arguments.to)
    for name, value in evaluate(embedder).items():
        print(f"{name}: {100 * value:.1f} %")


if __name__ == "__main__":
    main()
