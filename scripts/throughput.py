"""`benchmark.py --throughput`: pairs a second of M2IB and its peers, and where the time of a prediction goes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from benchmark import Floor, explaining, own_peak_memory, random_clip, released_way, scenes, timed
from lightning.pytorch import Trainer
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import CLIPTokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel

from m2ib_lightning import M2IB, AttributionStore, methods
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.load import EMBEDDED
from m2ib_lightning.backbones.siglip import SiglipBackbone
from m2ib_lightning.callbacks import PredictionWriter
from m2ib_lightning.data import PairDataModule, make_scene
from m2ib_lightning.data.pairs import make_references, read_pair
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.precision import precision_on
from m2ib_lightning.store import Provenance
from m2ib_lightning.types import PairBatch

MODELS = ("ViT-B/32", "ViT-L/14", "SigLIP 2 B/16", "ViT-B/16")
PEERS = ("GradECLIP", "LeGrad", "Chefer")
DISTINCT = 32
"""Scenes that are drawn; larger batches repeat them."""

Way = tuple[str, str, Callable[[PairBatch], Any]]
"""What is timed: its name, its precision, and what explains a batch."""


def model_of(name: str, device: str) -> Backbone:
    """A model of a published shape with random weights."""
    if name != "SigLIP 2 B/16":
        return random_clip(name, device)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED)
    tower = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12)
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=64, projection_size=768, **tower)
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=dict(patch_size=16, image_size=224, **tower)))
    parts = SimpleNamespace(image_processor=SiglipImageProcessorPil(), tokenizer=tokenizer)
    return SiglipBackbone(model, parts, name).to(device)


def batch_of(backbone: Backbone, size: int) -> PairBatch:
    """So many pairs, each of them computed, repeated or not."""
    batch = scenes(backbone, min(size, DISTINCT)).keep([i % DISTINCT for i in range(size)])
    return batch._replace(pairs=tuple(pair._replace(id=str(i)) for i, pair in enumerate(batch.pairs)))


def ways(backbone: Backbone, device: str, compiled: bool) -> list[Way]:
    """What is timed on a model, the most telling first; each explains batches of any size.

    Args:
        backbone: The model that is explained.
        device: Where it is.
        compiled: Whether compiled towers are timed as well, which takes most of a minute.
    """
    on_gpu = device == "cuda"
    low = "bf16" if on_gpu else "float32"

    def of(kind: type[AttributionMethod], precision: str = low, **arguments: Any) -> Way:
        method = kind(backbone, **arguments)
        shown = ", ".join([kind.__name__, *(f"{name} {value}" for name, value in arguments.items())])
        return shown, precision, partial(autocast, method, precision=precision)

    four: dict[str, Any] = {"noise_samples": 4}
    found = [of(M2IB), of(M2IB, **four)]
    found += [of(M2IB, compile=True), of(M2IB, compile=True, **four)] if compiled else []
    found += [of(getattr(methods, name)) for name in PEERS]
    return found + ([of(M2IB, graphs=False), of(M2IB, "float32")] if on_gpu else [])


def autocast(method: AttributionMethod, batch: PairBatch, *, precision: str) -> None:
    """Explain a batch in a precision."""
    with torch.autocast(batch.pixel_values.device.type, torch.bfloat16, enabled=precision == "bf16"):
        method.attribute(batch)


def throughput(models: Sequence[str], sizes: Sequence[int], device: str, until: float) -> list[dict[str, Any]]:
    """Rows of each model, batch and way; what would begin after `until` is left out and said to be.

    The first model is measured with all sizes, the others with `usual` ones; on a GPU as compiled code as well.
    """
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(models):
        if time.monotonic() > until:
            rows.append({"model": name, "pairs": "", "way": "left out: no time"})
            continue
        backbone = model_of(name, device)
        timed_ways = ways(backbone, device, compiled=device == "cuda")
        for size in sizes if place == 0 else [usual(sizes)]:
            batch = batch_of(backbone, size)
            for way, precision, run in timed_ways:
                row: dict[str, Any] = {"model": name, "pairs": size, "way": way, "precision": precision}
                rows.append(row | _timed(partial(run, batch), size, device, until))
                print(*rows[-1].values(), flush=True)
            if size == 1 and hasattr(backbone.model, "visual_projection"):
                row = {"model": name, "pairs": 1, "way": "released way", "precision": "float32"}
                rows.append(row | _timed(partial(released_way, backbone, batch), 1, device, until))
            if time.monotonic() < until:
                rows.append({"model": name, "pairs": size, "way": "floor of M2IB", **_floor(backbone, batch, device)})
        del backbone, timed_ways
    return rows


def usual(sizes: Sequence[int]) -> int:
    """The most pairs at once, below 512, of which there are enough batches for all that read them ahead."""
    return max((size for size in sizes if size < 512), default=sizes[0])


def _timed(run: Callable[[], Any], size: int, device: str, until: float) -> dict[str, Any]:
    """The median of up to five, after two that settle everything (a GPU records its steps in the second)."""
    if time.monotonic() > until:
        return {"note": "no time"}
    try:
        run()
        peak = own_peak_memory(run, device)
        once = timed(run)
        seconds = statistics.median([once, *(timed(run) for _ in range(4 if once < 1 else 0))])
    except (ValueError, RuntimeError) as problem:  # a method that this model has not, or a batch too large
        return {"note": str(problem).splitlines()[0][:60]}
    return {"seconds": seconds, "pairs_per_second": size / seconds, "peak_mb": peak}


def _floor(backbone: Backbone, batch: PairBatch, device: str) -> dict[str, Any]:
    """The matrix products of the default alone."""
    low, default = "bf16" if device == "cuda" else "float32", M2IB(backbone)
    arguments = {name: default.hparams[name] for name in ("noise_samples", "prior", "read_out", "antithetic")}
    floor = Floor(
        lambda steps: explaining(backbone, batch, low, **arguments | {"steps": steps})(), device, default.steps
    )
    seconds = statistics.median(floor.seconds() for _ in range(3))
    return {"precision": low, "seconds": seconds, "pairs_per_second": len(batch.tokens) / seconds}


def end_to_end(name: str, pairs: int, batch_size: int, device: str) -> dict[str, Any]:
    """Where the time of `m2ib predict` over JPEGs of 640 x 480 goes: seconds of each part alone, and of all of it."""
    backbone, folder = model_of(name, device), Path(tempfile.mkdtemp())
    drawn = [make_scene(seed) for seed in range(min(pairs, DISTINCT))]
    for i, scene in enumerate(drawn):
        scene.image.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    files = [str(folder / f"{i % len(drawn)}.jpg") for i in range(pairs)]
    texts = [drawn[i % len(drawn)].text for i in range(pairs)]
    method, precision = M2IB(backbone), precision_on("auto" if device == "cuda" else "cpu")
    some = make_references(files[:batch_size], texts[:batch_size])
    read = [read_pair(reference) for reference in some]
    inputs = backbone.preprocess_pairs(read)
    kind = "bf16" if precision == "bf16-mixed" else "float32"
    for _ in range(2):  # a GPU records its steps in the second
        autocast(method, inputs, precision=kind)
    store, made = AttributionStore(folder / "store"), Provenance("", "", {})
    found = method.attribute(inputs)
    parts = {
        "read": timed(lambda: [read_pair(reference) for reference in some]),
        "preprocess": timed(lambda: backbone.read_pairs(read)),
        "fit": timed(lambda: autocast(method, inputs, precision=kind)),
        "write": timed(lambda: store.append(found, made)),
    }
    data = PairDataModule(image=files, text=texts, batch_size=batch_size)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, precision=precision, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[PredictionWriter(folder / "run")],
    )  # fmt: skip
    whole = timed(lambda: trainer.predict(method, datamodule=data, return_predictions=False))
    shutil.rmtree(folder)
    alone = {part: seconds / len(some) for part, seconds in parts.items()}
    return {"model": name, "pairs": pairs, **alone, "whole": whole / pairs, "reached": alone["fit"] * pairs / whole}


def apart(name: str, pairs: int, batch_size: int, device: str) -> dict[str, Any]:
    """`end_to_end` in a process of its own: if it crashes, the rest is measured yet, and no process of it stays."""
    with tempfile.NamedTemporaryFile("r") as said:
        run = f"throughput.end_to_end({name!r}, {pairs}, {batch_size}, {device!r})"
        code = f"import json, throughput; json.dump({run}, open({said.name!r}, 'w'))"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, start_new_session=True)
        status = process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if status:
            return {"model": name, "pairs": pairs, "note": f"ended with {status}"}
        found: dict[str, Any] = json.load(said)
        return found


def show(rows: Sequence[dict[str, Any]], title: str, console: Console) -> None:
    """A table of rows that need not have the same columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, title=title)
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console.print(table)


def measure(models: Sequence[str], sizes: Sequence[int], device: str, minutes: float, pairs: int) -> dict[str, Any]:
    """Everything, in so many minutes.

    Args:
        models: Which models are measured, of `MODELS` or "embedded".
        sizes: How many pairs are explained at once.
        device: The device they run on, "cpu" or "cuda".
        minutes: What would begin later is left out.
        pairs: How many pairs the prediction from files has.
    """
    until = time.monotonic() + 60 * minutes
    warnings.simplefilter("ignore")
    whole = [apart(models[0], pairs, min(pairs, usual(sizes)), device)]
    return {"end_to_end": whole, "throughput": throughput(models, sizes, device, until)}
