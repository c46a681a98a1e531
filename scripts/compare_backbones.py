#!/usr/bin/env python
"""Compare every family of backbones with its library's own code: errors of outputs and gradients, and a map.

Small random models, open_clip's configurations among them where it is installed or lies aside. Run from anywhere:

    python scripts/compare_backbones.py
    python scripts/compare_backbones.py --only clip siglip --full

`--full` adds released sizes with random weights, which takes some minutes and 4 GB.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(__file__).resolve().parents[1]))

import transformers
from on_scenes import keep
from transformers import CLIPProcessor

from m2ib_lightning import explain
from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.backbones.load import EMBEDDED
from m2ib_lightning.methods.priors import default_layer
from tests.backbones.compare import TEXTS, compare, library_blocks, library_features, pictures
from tests.backbones.tokenizers import byte_fallback
from tests.checkpoints import CHECKPOINTS, clip_pictures, save

Case = tuple[str, str, Any]
"""Family, configuration, and what makes (backbone, features, blocks)."""

HEADS = ("heads read: image / text", "layers", "outputs", "gradients", "map: cells, tokens", "refused")


def huggingface_cases(folder: Path) -> Iterator[Case]:
    """The embedded model, then a small random checkpoint of each family."""
    yield "clip", "embedded", lambda: (load_backbone(), library_features, library_blocks)
    for family, write in CHECKPOINTS.items():
        made = lambda write=write, at=folder / family: (load_backbone(str(write(at))), library_features, library_blocks)  # noqa: E731
        yield family, "small, random", made


def full_size_cases(folder: Path) -> Iterator[Case]:
    """Released sizes of CLIP and SigLIP with random weights."""
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
             "patch_size": 14, "image_size": 336}  # fmt: skip
    clip = transformers.CLIPTokenizer.from_pretrained(EMBEDDED)
    gemma = byte_fallback(transformers.GemmaTokenizer)
    for family, name, kind, vision, processor in (
        ("clip", "ViT-B/32, random", transformers.CLIPModel, {},
         CLIPProcessor(clip_pictures(224), clip)),
        ("clip", "ViT-L/14 at 336 pixels, random", transformers.CLIPModel, large,
         CLIPProcessor(clip_pictures(336), clip)),
        ("siglip", "B/16, random", transformers.SiglipModel, {},
         transformers.SiglipProcessor(transformers.SiglipImageProcessorPil(), gemma)),
    ):  # fmt: skip
        ids = {"eos_token_id": processor.tokenizer.eos_token_id}
        config = kind.config_class(vision_config=vision, text_config=ids)
        at = folder / name.replace("/", "-")
        made = lambda a=(at, kind, config, processor): (load_backbone(str(save(*a))), library_features, library_blocks)  # noqa: E731
        yield family, name, made


def openclip_cases(folder: Path) -> Iterator[Case]:
    """Every configuration of open_clip in small, if it is installed, or where scripts/bootstrap put it."""
    if find_spec("open_clip") is None:
        sys.path.append(str(Path(sys.prefix) / "open_clip"))
        import_module("tests.backbones.torchvision_operators").pytest_configure()
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:
        print(f"open_clip is left out: {error}", file=sys.stderr)
        return
    from m2ib_lightning.backbones.openclip import OpenClipBackbone
    from tests.backbones.openclip_models import openclip_blocks, openclip_features, small_model, small_texts

    texts = small_texts(folder)
    for name in open_clip.list_models():
        made = lambda name=name: (  # noqa: E731
            OpenClipBackbone(*small_model(name, texts), name), openclip_features, openclip_blocks,
        )  # fmt: skip
        yield "open_clip", name, made


def row(backbone: Backbone, features: Any, blocks: Any) -> dict[str, Any]:
    """What the heads read, layers tried, largest errors over largest values, and the shape of a map."""
    errors, tried = {"embedding": 0.0, "gradient": 0.0}, []
    for modality in ("image", "text"):
        depth = backbone.tower(modality).depth
        layers = {default_layer(modality, depth, prior) for prior in ("unit", "measured")} | {
            "embeddings",
            0,
            depth - 2,
        }
        tried.append(", ".join(sorted(map(str, layers))))
        for layer in layers:
            compared = compare(backbone, modality, layer, features=features, blocks=blocks)
            errors = {name: max(error, compared.error(name)) for name, error in errors.items()}
    result = explain(pictures()[0], TEXTS[0], backbone=backbone, prior="unit", steps=2, noise_samples=2)[0]
    shape = "x".join(map(str, result.image_map.shape))
    heads = f"{backbone.image.reads} / {backbone.text.reads}"
    cells = (heads, " / ".join(tried), *errors.values(), f"{shape}, {len(result.text_map)}", "")
    return dict(zip(HEADS, cells, strict=True))


def main() -> None:
    """Compare what is asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=(), help="families or configurations")
    parser.add_argument("--full", action="store_true", help="released sizes too")
    parser.add_argument("--output", type=Path, default=Path("outputs/backbones"), help="folder for the numbers")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        full = full_size_cases(at) if options.full else ()
        for family, configuration, make in (*huggingface_cases(at), *full, *openclip_cases(at)):
            if options.only and not {family, configuration} & set(options.only):
                continue
            try:
                found = row(*make())
            except ValueError as error:
                found = dict.fromkeys(HEADS, "") | {"refused": str(error).partition(". Remedy")[0]}
            rows.append({"family": family, "configuration": configuration} | found)
            print(f"{family}, {configuration}: {found['refused'] or found['outputs']}", flush=True)
    keep(rows, options)


if __name__ == "__main__":
    main()
