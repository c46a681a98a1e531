"""From a name to a backbone."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from m2ib_lightning.backbones.base import Backbone

EMBEDDED = Path(str(resources.files("m2ib_lightning"))) / "assets" / "embedded_clip"
"""The checkpoint inside the package."""

FAMILIES = {"clip": "m2ib_lightning.backbones.clip.CLIPBackbone"}
"""The class that reads each `model_type` of transformers."""


def load_backbone(name: str = "embedded", device: torch.device | str = "cpu") -> Backbone:
    """A frozen model with its processor, in float32.

    Args:
        name: "embedded" for the small CLIP inside the package, a folder with a checkpoint, or a name on the
            Hugging Face hub such as "openai/clip-vit-base-patch32".
        device: Where the weights go.

    Raises:
        ValueError: There is no such model, the folder is no checkpoint, or nobody has written its family yet.
    """
    folder = str(EMBEDDED) if name == "embedded" else name
    family = _family(folder, name)
    model, processor = _read(folder, name)
    module, _, kind = family.rpartition(".")
    backbone: Backbone = getattr(importlib.import_module(module), kind)(model, processor, name)
    return backbone.to(device)


def _family(folder: str, name: str) -> str:
    """The class that reads a checkpoint, from its configuration alone."""
    from transformers import AutoConfig

    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"Expected a checkpoint in the folder {name!r} but it has no config.json. "
            "Remedy: name the folder that `save_pretrained` wrote, or 'embedded'."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ValueError(_not_found(name, error)) from error
    if config.model_type not in FAMILIES:
        kind = (config.architectures or [config.model_type])[0]
        raise ValueError(
            f"Expected a model of a known family ({', '.join(FAMILIES)}) but {name!r} is a {kind}. "
            "Remedy: implement the contract in m2ib_lightning/backbones/base.py for it, in one file."
        )
    return FAMILIES[config.model_type]


def _read(folder: str, name: str) -> tuple[Any, Any]:
    """The library's model, in float32, and its processor."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoProcessor

    try:
        with _no_progress_bar() if Path(folder).is_dir() else contextlib.nullcontext():
            # float32 whatever the file holds: masks move by gradients near 1e-6.
            model, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(_not_found(name, error)) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"Expected a complete checkpoint but {name!r} lacks {missing[0]} and {len(missing) - 1} other weights. "
            "Remedy: get the checkpoint again."
        )
    return model, processor


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Reading weights from disk takes a moment and needs no bar; a download does."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _not_found(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = "the folder" if Path(name).is_dir() else "a local folder, then the Hugging Face hub,"
    return (
        f"Expected a model at {name!r}; looked in {where} but could not read one ({reason}). "
        "Remedy: check the name and the network, or use a local folder or 'embedded', which need none."
    )
