"""From a name to a backbone."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from m2ib_lightning.backbones.base import Backbone
from m2ib_lightning.errors import MissingExtra

EMBEDDED = Path(str(resources.files("m2ib_lightning"))) / "assets" / "embedded_clip"
"""The checkpoint inside the package."""

_HERE = "m2ib_lightning.backbones"

FAMILIES = {
    "align": f"{_HERE}.align.AlignBackbone",
    "altclip": f"{_HERE}.altclip.AltCLIPBackbone",
    "blip": f"{_HERE}.blip.BlipBackbone",
    "chinese_clip": f"{_HERE}.chinese_clip.ChineseCLIPBackbone",
    "clip": f"{_HERE}.clip.CLIPBackbone",
    "clipseg": f"{_HERE}.clipseg.CLIPSegBackbone",
    "metaclip_2": f"{_HERE}.metaclip2.MetaCLIP2Backbone",
    "siglip": f"{_HERE}.siglip.SiglipBackbone",
    "siglip2": f"{_HERE}.siglip2.Siglip2Backbone",
}
"""The class that reads each `model_type` of transformers."""


def load_backbone(
    name: str = "embedded", device: torch.device | str = "cpu", image_size: int | tuple[int, int] | None = None
) -> Backbone:
    """A frozen model with its processor, in float32.

    Args:
        name: "embedded" for the small CLIP inside the package, a folder with a checkpoint, a name on the Hugging Face
            hub such as "openai/clip-vit-base-patch32", or a model of open_clip such as "open_clip:ViT-B-32/openai".
        device: The device that the weights are put on.
        image_size: Pixels to read pictures at, (height, width) or the side of a square, instead of what the model was
            trained at; its position embeddings are interpolated by its own code. Whole patches.

    Raises:
        MissingExtra: A library that the model needs is not installed.
        ValueError: There is no such model, the folder is no checkpoint, nobody has written its family yet, or it cannot
            read pictures of that size.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if name.startswith("open_clip:"):
        from m2ib_lightning.backbones.openclip import load_openclip

        return load_openclip(name, size).to(device)
    folder = str(EMBEDDED) if name == "embedded" else name
    family, architecture = _family(folder, name)
    model, processor = _read(folder, name, architecture)
    return family(model, processor, name, size).to(device)


def _family(folder: str, name: str) -> tuple[Any, str]:
    """Our class for a checkpoint and the library's, from its configuration alone."""
    from transformers import AutoConfig

    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"Expected a checkpoint in the folder {name!r} but it has no config.json. "
            "Remedy: name the folder that `save_pretrained` wrote, or 'embedded'."
        )
    try:
        # Code that lies beside weights is not run, whatever a prompt would answer.
        config = AutoConfig.from_pretrained(folder, local_files_only=_is_offline(folder), trust_remote_code=False)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ValueError(_not_found(name, error)) from error
    kind = (config.architectures or [config.model_type])[0]
    if config.model_type in FAMILIES:
        module, _, found = FAMILIES[config.model_type].rpartition(".")
        family = getattr(importlib.import_module(module), found)
    if config.model_type not in FAMILIES or (family.architectures and kind not in family.architectures):
        raise ValueError(
            f"Expected a model of a known family ({', '.join(FAMILIES)}) but {name!r} is a {kind}. "
            "Remedy: implement the contract in m2ib_lightning/backbones/base.py for it, in one file."
        )
    return family, kind if family.architectures else "AutoModel"


def _read(folder: str, name: str, architecture: str) -> tuple[Any, Any]:
    """The library's model, in float32, and its processor."""
    import transformers
    from safetensors import SafetensorError

    local = _is_offline(folder)
    try:
        with _quiet(progress=not Path(folder).is_dir()):
            # float32 whatever the file holds: masks move by gradients near 1e-6.
            model, report = getattr(transformers, architecture).from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=local,
                trust_remote_code=False,
            )
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=local, trust_remote_code=False)
    except ImportError as error:
        raise MissingExtra(
            f"Expected the libraries that {name!r} needs but one is not installed ({_first_line(error)}). "
            "Remedy: install it; tokenizers of SigLIP's first version come with `pip install "
            "'m2ib_lightning[sentencepiece]'`."
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(_not_found(name, error)) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"Expected a complete checkpoint but {name!r} lacks {missing[0]} and {len(missing) - 1} other weights. "
            "Remedy: get the checkpoint again."
        )
    return model, processor


def _is_offline(folder: str) -> bool:
    """Whether only files of this machine are to be looked for: those of a folder, or what was downloaded before.

    transformers tries the hub for half a minute before it says that there is no network; one connection tells at once.
    """
    from huggingface_hub import constants

    if Path(folder).is_dir() or constants.HF_HUB_OFFLINE:
        return True
    if getproxies():
        return False
    hub = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname or "", hub.port or (80 if hub.scheme == "http" else 443)), 5).close()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """No list of weights that a checkpoint has and nobody asked for; no progress bar unless something is downloaded."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _not_found(name: str, error: Exception) -> str:
    where = "the folder" if Path(name).is_dir() else "a local folder, then the Hugging Face hub,"
    return (
        f"Expected a model at {name!r}; looked in {where} but could not read one ({_first_line(error)}). "
        "Remedy: check the name and the network, or use a local folder or 'embedded', which need none."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
