#!/usr/bin/env python
"""Measure how fast pairs are explained, against the released way of computing and against the machine's own limit.

    python scripts/benchmark.py                         # ViT-B/32, minutes on two cores
    python scripts/benchmark.py --scaling --device cuda

(a) the released way: one pair and one modality at a time, both towers in full at every step for ten copies of it,
    gradients for every weight; (b) ours, for several batch sizes and precisions, in turn with (a); (c) the floor: the
    floating-point operations that (b) makes, over the rate at which this machine does its matrix products; (d) peak
    memory beyond the model; (e) with --scaling, time against pairs, noise samples, steps and model. Weights are random:
    time does not depend on them. Prints tables and writes everything to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from m2ib_lightning import M2IB, RELEASED, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.clip import CLIPBackbone
from m2ib_lightning.backbones.load import EMBEDDED
from m2ib_lightning.data import make_scene
from m2ib_lightning.types import Pair, PairBatch

SHAPES = {
    "ViT-B/32": dict(patch=32, width=768, layers=12, heads=12, text=512, dim=512),
    "ViT-B/16": dict(patch=16, width=768, layers=12, heads=12, text=512, dim=512),
    "ViT-L/14": dict(patch=14, width=1024, layers=24, heads=16, text=768, dim=768),
}
STEPS, SAMPLES = 10, 10
console = Console()


def random_clip(name: str, device: str) -> Backbone:
    """A CLIP of a published shape with random weights, or the embedded one."""
    if name == "embedded":
        return load_backbone(name, device)
    shape = SHAPES[name]
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED)
    text = dict(
        hidden_size=shape["text"], intermediate_size=4 * shape["text"], num_attention_heads=shape["text"] // 64,
        num_hidden_layers=12, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = dict(
        hidden_size=shape["width"], intermediate_size=4 * shape["width"], num_attention_heads=shape["heads"],
        num_hidden_layers=shape["layers"], patch_size=shape["patch"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(projection_dim=shape["dim"], text_config=text, vision_config=vision))
    return CLIPBackbone(model, CLIPProcessor(CLIPImageProcessorPil(), tokenizer), name).to(device)


def scenes(backbone: Backbone, count: int) -> PairBatch:
    made = [make_scene(seed) for seed in range(count)]
    return backbone.preprocess_pairs([Pair(str(i), s.image, s.caption) for i, s in enumerate(made)])


def released_way(backbone: Backbone, batch: PairBatch, steps: int) -> None:
    """What the released code computes for one pair, as a plain loop."""
    model = backbone.model.requires_grad_(True)
    inputs = dict(pixel_values=batch.pixel_values[:1], input_ids=batch.input_ids[:1])
    for tower in (model.vision_model, model.text_model):
        layers = tower.encoder.layers
        block = layers[min(round(0.75 * len(layers)), len(layers) - 2)]
        kept: list[Tensor] = []
        handle = block.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out.detach()))
        with torch.no_grad():
            model(**inputs)
        handle.remove()
        hidden = kept[0]
        alpha = torch.full_like(hidden, 5.0, requires_grad=True)
        optimizer = torch.optim.Adam([alpha], lr=1.0)
        for _ in range(steps):
            lambda_ = torch.sigmoid(alpha)
            copies = {name: value.expand(SAMPLES, *value.shape[1:]) for name, value in inputs.items()}
            z = lambda_ * hidden + (1 - lambda_) * torch.randn(SAMPLES, *hidden.shape[1:], device=hidden.device)
            handle = block.register_forward_hook(lambda _m, _i, _o, z=z: z)
            out = model(**copies)
            handle.remove()
            capacity = 0.5 * ((lambda_ * hidden) ** 2 + (1 - lambda_) ** 2 - 1) - torch.log(1 - lambda_)
            loss = 0.1 * capacity.mean() - F.cosine_similarity(out.image_embeds, out.text_embeds).mean()
            model.zero_grad()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    backbone.model.requires_grad_(False)


def timed(run: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Products(TorchDispatchMode):
    """Counts the shapes and strides of the matrix products that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            a, b = args[-2:]
            self.found[(a.shape, a.stride(), b.shape, b.stride(), a.dtype)] += 1
        return func(*args, **(kwargs or {}))


def floor(run: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds that the operations of `run` take at the rate of its own matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    with Products() as products:
        run()
    seconds = operations = 0.0
    for (shape_a, stride_a, shape_b, stride_b, dtype), count in products.found.items():
        a, b = (
            torch.randn(max(shape[0] * stride[0], shape[1] * stride[1]) + 1, device=device).to(dtype)
            .as_strided(shape, stride)
            for shape, stride in ((shape_a, stride_a), (shape_b, stride_b))
        )  # fmt: skip
        repeats = max(3, int(2e9 / (2 * shape_a[0] * shape_a[1] * shape_b[1])))
        a @ b
        seconds += count * min(timed(lambda a=a, b=b, n=repeats: [a @ b for _ in range(n)]) for _ in range(3)) / repeats
        operations += count * 2.0 * shape_a[0] * shape_a[1] * shape_b[1]
    rate = operations / seconds
    return {"operations": counter.get_total_flops(), "rate": rate, "seconds": counter.get_total_flops() / rate}


def peak_memory(run: Callable[[], Any], device: str) -> float:
    """MB that `run` takes beyond what was there."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1e3


def _status(name: str) -> float:
    return float(next(r for r in Path("/proc/self/status").read_text().splitlines() if r.startswith(name)).split()[1])


def explain_once(backbone: Backbone, batch: PairBatch, precision: str, **arguments: Any) -> Callable[[], Any]:
    method = M2IB(backbone, **{**RELEASED, "noise_samples": SAMPLES, "tolerance": None, **arguments})
    method.prepare()

    def run() -> None:
        with torch.autocast(batch.pixel_values.device.type, torch.bfloat16, enabled=precision == "bf16"):
            method.attribute(batch)

    return run


def compare(name: str, sizes: list[int], repeats: int, device: str) -> list[dict[str, Any]]:
    """(a) to (d): rows of one model."""
    backbone = random_clip(name, device)
    batches = {size: scenes(backbone, size) for size in sizes}
    ways: dict[str, tuple[int, Callable[[], Any], float]] = {
        "released way": (1, lambda: released_way(backbone, batches[sizes[0]], 1), STEPS)
    }
    for size in sizes:
        for precision in ("float32", "bf16"):
            ways[f"batch {size}, {precision}"] = (size, explain_once(backbone, batches[size], precision), 1)
    cheap = dict(noise_samples=2, antithetic=True)
    ways[f"batch {sizes[-1]}, 2 samples"] = (
        sizes[-1],
        explain_once(backbone, batches[sizes[-1]], "float32", **cheap),
        1,
    )
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, (size, run, factor) in ways.items():
            # One step of the released way, times the number of steps: each costs the same.
            took = timed(run) * factor / size
            if turn:
                seconds[way].append(took)
    rows = []
    base = statistics.median(seconds["released way"])
    for way, (size, run, _) in ways.items():
        row: dict[str, Any] = {"model": name, "way": way, "seconds_per_pair": statistics.median(seconds[way])}
        row |= {"least": min(seconds[way]), "most": max(seconds[way]), "times_faster": base / row["seconds_per_pair"]}
        if way != "released way":
            limit = floor(run, device)
            row["floor_ratio"] = row["seconds_per_pair"] * size / limit["seconds"]
            row["gflops_per_second_of_products"] = limit["rate"] / 1e9
            row["peak_mb"] = peak_memory(run, device)
        rows.append(row)
        console.print(f"  {name} {way}: {row['seconds_per_pair']:.3f} s a pair")
    return rows


def scaling(device: str) -> list[dict[str, Any]]:
    """(e): seconds a pair against what a user may change, float32."""
    rows = []
    for name in ("embedded", "ViT-B/32", "ViT-B/16", "ViT-L/14"):
        backbone = random_clip(name, device)
        plan = [dict(pairs=n) for n in (1, 4, 16)] if name in ("embedded", "ViT-B/32") else [dict(pairs=1)]
        if name == "ViT-B/32":
            plan += [dict(noise_samples=n) for n in (1, 4, 20)] + [dict(steps=n) for n in (5, 20)]
        for change in plan:
            size = change.get("pairs", 4)
            run = explain_once(
                backbone, scenes(backbone, size), "float32", **{k: v for k, v in change.items() if k != "pairs"}
            )
            run()
            rows.append(
                {"model": name, **change, "seconds_per_pair": statistics.median(timed(run) for _ in range(3)) / size}
            )
            console.print(f"  {rows[-1]}")
    return rows


def start_up() -> dict[str, float]:
    """Seconds until something can be done, and what a fit costs beyond its arithmetic."""
    programs = {
        "import torch, lightning": ["-c", "import torch, lightning.pytorch"],
        "import m2ib_lightning": ["-c", "import m2ib_lightning"],
        "m2ib --help": ["-m", "m2ib_lightning", "--help"],
    }
    found = {}
    for name, arguments in programs.items():
        run = [sys.executable, *arguments]
        found[name] = statistics.median(
            timed(lambda run=run: subprocess.run(run, check=True, stdout=subprocess.DEVNULL)) for _ in range(5)
        )
    return found | {"overhead of one fit": _fit_overhead()}


def _fit_overhead() -> float:
    import logging
    import warnings

    from lightning.pytorch import Trainer

    from m2ib_lightning.data import PairDataModule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    backbone = load_backbone("embedded")
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)

    def fit() -> None:
        trainer = Trainer(accelerator="cpu", devices=1, max_epochs=STEPS, **quiet)
        trainer.fit(M2IB(backbone, tolerance=None), PairDataModule(scenes=1))

    method = M2IB(backbone, tolerance=None)
    batch = scenes(backbone, 1)
    fit()
    return statistics.median(timed(fit) - timed(lambda: method.attribute(batch)) for _ in range(5))


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("model", "way", "seconds a pair", "spread", "times faster", "over the floor", "peak MB")
    for r in rows:
        numbers = [f"{r['seconds_per_pair']:.3f}", f"{r['least']:.3f} .. {r['most']:.3f}", f"{r['times_faster']:.1f}"]
        rest = [f"{r[key]:.2f}" if key in r else "" for key in ("floor_ratio", "peak_mb")]
        table.add_row(r["model"], r["way"], *numbers, *rest)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B/32", choices=["embedded", *SHAPES])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--scaling", action="store_true", help="also time against pairs, samples, steps and model")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark.json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": arguments.device,
    }
    result["rows"] = compare(arguments.model, arguments.batch_sizes, arguments.repeats, arguments.device)
    show(result["rows"])
    result["start_up"] = start_up()
    for name, seconds in result["start_up"].items():
        console.print(f"{name:>24}  {seconds:.2f} s")
    if arguments.scaling:
        result["scaling"] = scaling(arguments.device)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1))
    console.print(f"Written: {arguments.output}")


if __name__ == "__main__":
    main()
