#!/usr/bin/env python
"""Measure how fast pairs are explained, against the released way of computing and against the machine's own limit.

    python scripts/benchmark.py                         # ViT-B/32, minutes on two cores
    python scripts/benchmark.py --device cuda           # all models, peers, prediction from files: eight minutes
    python scripts/benchmark.py --throughput --models embedded --batch-sizes 1 8 --minutes 2

(a) the released way: one pair and one modality at a time, both towers in full at every step for ten copies of it,
    gradients for every weight;
(b) ours, for several batch sizes and precisions and for the cheap setting, in turn with (a);
(c) the floor: the floating-point operations that (b) makes, over the rate at which this machine does the matrix
    products among them, measured in turn with (b);
(d) peak memory beyond the model, each in a process of its own;
(e) with --scaling, time against pairs, noise samples, steps and model;
(f) with --throughput, and on a GPU nothing else: pairs a second of several models, of M2IB, of methods with one
    backward pass, of the released way and of the floor; and where the time of a prediction from files goes.

Weights are random: time does not depend on them. Prints tables and writes everything to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from on_scenes import correlations
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from m2ib_lightning import M2IB, RELEASED, Attribution, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.clip import CLIPBackbone
from m2ib_lightning.backbones.load import EMBEDDED
from m2ib_lightning.data import make_scene
from m2ib_lightning.types import MODALITIES, Pair, PairBatch

SHAPES = {
    "ViT-B/32": dict(patch=32, width=768, layers=12, heads=12, text=512, dim=512),
    "ViT-B/16": dict(patch=16, width=768, layers=12, heads=12, text=512, dim=512),
    "ViT-L/14": dict(patch=14, width=1024, layers=24, heads=16, text=768, dim=768),
}
STEPS, SAMPLES = 10, 10
LINEAR = torch.ops.mkldnn._linear_pointwise  # oneDNN's matrix product
FLOPS = {LINEAR: lambda x, weight, *_, out_shape=None, **__: 2 * x[0] * x[1] * weight[0]}
CHEAP: dict[str, Any] = {"noise_samples": 2, "antithetic": True}
console = Console(width=None if sys.stdout.isatty() else 120)


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
    return backbone.preprocess_pairs([Pair(str(i), s.image, s.text) for i, s in enumerate(made)])


def released_way(backbone: Backbone, batch: PairBatch, full_text: bool = False) -> None:
    """What the released code computes for one pair, as a plain loop; gradients of weights add up and are never used.

    Args:
        backbone: The CLIP that is explained.
        batch: Its first pair is explained.
        full_text: Whether the text is padded to the model's full length, as OpenAI's tokenizer does.
    """
    model = backbone.model.requires_grad_(True)
    ids = batch.input_ids[:1, : int(batch.attention_mask[0].sum())]
    if full_text:
        ids = F.pad(ids, (0, backbone.text.length - ids.shape[1]), value=int(ids[0, -1]))
    inputs = dict(pixel_values=batch.pixel_values[:1], input_ids=ids)
    for tower, name in ((model.vision_model, "pixel_values"), (model.text_model, "input_ids")):
        layers = tower.encoder.layers
        block = layers[min(round(0.75 * len(layers)), len(layers) - 2)]
        kept: list[Tensor] = []
        handle = block.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out.detach()))
        with torch.no_grad():
            tower(inputs[name])
        handle.remove()
        hidden = kept[0]
        alpha = torch.full_like(hidden, 5.0, requires_grad=True)
        optimizer = torch.optim.Adam([alpha], lr=1.0)
        copies = {key: value.expand(SAMPLES, *value.shape[1:]) for key, value in inputs.items()}
        for _ in range(STEPS):
            optimizer.zero_grad()
            lambda_ = torch.sigmoid(alpha)
            mean, variance = lambda_ * hidden, (1 - lambda_) ** 2
            capacity = -0.5 * (1 + torch.log(variance) - mean**2 - variance)
            z = mean + variance.sqrt() * torch.randn(SAMPLES, *hidden.shape[1:], device=hidden.device)
            handle = block.register_forward_hook(lambda _m, _i, _o, z=z: z)
            out = model(**copies)
            handle.remove()
            loss = 0.1 * capacity.mean() - F.cosine_similarity(out.image_embeds, out.text_embeds).mean()
            loss.backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def timed(run: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Products(TorchDispatchMode):
    """Counts the matrix products that run under it, by operator, shapes and strides."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            a, b = args[-2:]
            self.found[(False, a.shape, a.stride(), b.shape, b.stride(), a.dtype)] += 1
        if func is LINEAR.default:
            a, b = args[0], args[1].t()
            self.found[(True, a.shape, a.stride(), b.shape, b.stride(), a.dtype)] += 1
        return func(*args, **(kwargs or {}))


class Floor:
    """The matrix products of a run, done again by themselves: no run that needs so many operations can be faster.

    Args:
        run: Given a number of steps.
        device: The device that it runs on.
        steps: How many steps a whole run has.

    Attributes:
        operations: Floating-point operations of `run(steps)`, attention's included.
    """

    def __init__(self, run: Callable[[int], Any], device: str, steps: int = STEPS) -> None:
        counted = []
        for few in (1, 2):
            with Products() as products, FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
                run(few)
            counted.append((counter.get_total_flops(), products.found))
        (once, found_once), (twice, found_twice) = counted
        self.operations = once + (steps - 1) * (twice - once)
        step = found_twice - found_once
        self.products = [(_product(key, device), count) for key, count in step.items()]
        self.products_operations = sum(2 * key[1].numel() * key[3][1] * count for key, count in step.items())

    def seconds(self) -> float:
        """All operations at the rate that the products of one step reach now."""
        return self.operations * timed(self._products_of_a_step) / self.products_operations

    def _products_of_a_step(self) -> None:
        for product, count in self.products:
            for _ in range(count):
                product()


def _product(key: tuple, device: str) -> Callable[[], Any]:
    """One matrix product, by the operator that was used."""
    by_linear, shape_a, stride_a, shape_b, stride_b, dtype = key
    a, b = (
        torch.randn(max(shape[0] * stride[0], shape[1] * stride[1]) + 1, device=device).to(dtype)
        .as_strided(shape, stride)
        for shape, stride in ((shape_a, stride_a), (shape_b, stride_b))
    )  # fmt: skip
    if by_linear:
        return lambda: LINEAR(a, b.t(), None, "none", [], "")
    out = torch.empty(shape_a[0], shape_b[1], device=device, dtype=dtype)
    return lambda: torch.mm(a, b, out=out)


def peak_memory(name: str, size: int, precision: str, device: str) -> float:
    """MB that the first batch of a fresh process takes beyond the loaded model."""
    own = [sys.executable, __file__, "--model", name, "--device", device, "--peak-memory", str(size), precision]
    return float(subprocess.run(own, check=True, capture_output=True, text=True).stdout)


def own_peak_memory(run: Callable[[], Any], device: str) -> float:
    """MB that `run` takes beyond what this process holds."""
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


def explaining(
    backbone: Backbone, batch: PairBatch, precision: str, **arguments: Any
) -> Callable[[], list[Attribution]]:
    """What explains a batch in the released setting, no pair stopping early; again and again with one method."""
    method = M2IB(backbone, **{**RELEASED, "steps": STEPS, "tolerance": None, **arguments})

    def run() -> list[Attribution]:
        with torch.autocast(batch.pixel_values.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return method.attribute(batch)

    return run


def explain(backbone: Backbone, batch: PairBatch, precision: str, **arguments: Any) -> list[Attribution]:
    """Explain a batch once, with a fresh method."""
    return explaining(backbone, batch, precision, **arguments)()


def correlation(found: list[Attribution], wanted: list[Attribution]) -> float:
    """Pearson correlation of the maps of the image, and of the text's content tokens; the mean over pairs and both."""
    return float(np.mean([correlations(found, wanted, modality) for modality in MODALITIES]))


class Way(NamedTuple):
    """One of our ways of computing: so many pairs at once, in a precision, with further arguments of M2IB."""

    label: str
    size: int
    precision: str
    arguments: dict[str, Any]


def ways(sizes: list[int]) -> list[Way]:
    found = [Way(f"batch {size}, {p}", size, p, {}) for size in sizes for p in ("float32", "bf16")]
    return [*found, *(Way(f"batch {size}, cheap", size, "float32", CHEAP) for size in sizes)]


def compare(name: str, sizes: list[int], repeats: int, device: str) -> list[dict[str, Any]]:
    """(a) to (d): rows of one model."""
    backbone = random_clip(name, device)
    batches = {size: scenes(backbone, size) for size in sizes}
    floors = {}
    runs = {}
    for way in ways(sizes):
        of_steps = partial(explain, backbone, batches[way.size], way.precision, **way.arguments)
        floors[way.label] = Floor(lambda steps, of_steps=of_steps: of_steps(steps=steps), device)
        runs[way.label] = explaining(backbone, batches[way.size], way.precision, **way.arguments)
        runs[way.label]()  # as in a long prediction, the method has explained before
    seconds: dict[str, list[float]] = defaultdict(list)
    released_way(backbone, batches[sizes[0]])
    for _ in track(range(repeats), "turns", console=console, transient=True):
        seconds["released way"].append(timed(lambda: released_way(backbone, batches[sizes[0]])))
        for way in ways(sizes):
            seconds[way.label].append(timed(runs[way.label]) / way.size)
            seconds[f"floor of {way.label}"].append(floors[way.label].seconds() / way.size)
    base = statistics.median(seconds["released way"])
    padded = [timed(lambda: released_way(backbone, batches[sizes[0]], full_text=True))]
    rows = [{"model": name, "way": "released way", "times_faster": 1.0, **spread(seconds["released way"])}]
    rows += [{"model": name, "way": "the same, text padded", "times_faster": base / padded[0], **spread(padded)}]
    many = explain(backbone, batches[sizes[0]], "float32", noise_samples=64, seed=1)
    few = explain(backbone, batches[sizes[0]], "float32")
    for way in ways(sizes):
        took = spread(seconds[way.label])
        limit = statistics.median(seconds[f"floor of {way.label}"])
        row = {"model": name, "way": way.label, **took, "times_faster": base / took["seconds_per_pair"]}
        row |= {"floor": limit, "floor_ratio": statistics.median(
            ours / least for ours, least in zip(seconds[way.label], seconds[f"floor of {way.label}"], strict=True)
        )}  # fmt: skip
        row["gflops_per_second"] = floors[way.label].operations / way.size / limit / 1e9
        if way.size == sizes[0]:
            found = explain(backbone, batches[way.size], way.precision, **way.arguments)
            row["pearson_float32"], row["pearson_64_samples"] = correlation(found, few), correlation(found, many)
        if not way.arguments:
            row["peak_mb"] = peak_memory(name, way.size, way.precision, device)
        rows.append(row)
    return rows


def spread(seconds: list[float]) -> dict[str, float]:
    return {"seconds_per_pair": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}


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
            batch = scenes(backbone, size)
            run = partial(explain, backbone, batch, "float32", **{k: v for k, v in change.items() if k != "pairs"})
            run()
            rows.append({"model": name, **change, **spread([timed(run) / size for _ in range(3)])})
            console.print(f"  {rows[-1]}")
    return rows


def start_up(repeats: int) -> dict[str, float]:
    """Seconds until something can be done, and what a fit costs beyond its arithmetic; medians."""
    programs = {
        "import torch, lightning": ["-c", "import torch, lightning.pytorch"],
        "import m2ib_lightning": ["-c", "import m2ib_lightning"],
        "m2ib --help": ["-m", "m2ib_lightning", "--help"],
    }
    found = {}
    for name, arguments in programs.items():
        run = [sys.executable, *arguments]
        found[name] = statistics.median(
            timed(lambda run=run: subprocess.run(run, check=True, stdout=subprocess.DEVNULL)) for _ in range(repeats)
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
    quiet: dict[str, Any] = dict(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )

    def fit() -> None:
        trainer = Trainer(accelerator="cpu", devices=1, max_epochs=STEPS, **quiet)
        trainer.fit(M2IB(backbone, tolerance=None), PairDataModule(scenes=1))

    method = M2IB(backbone, tolerance=None)
    batch = scenes(backbone, 1)
    fit()
    return statistics.median(timed(fit) - timed(lambda: method.attribute(batch)) for _ in range(5))


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "way", "s a pair", "spread", "faster", "/ floor", "Pearson f32", "64 samples", "peak MB", title=rows[0]["model"]
    )
    for r in rows:
        numbers = [f"{r['seconds_per_pair']:.3f}", f"{r['least']:.3f}-{r['most']:.3f}", f"{r['times_faster']:.1f} x"]
        rest = [("floor_ratio", 2), ("pearson_float32", 4), ("pearson_64_samples", 4), ("peak_mb", 0)]
        table.add_row(r["way"], *numbers, *(f"{r[key]:.{digits}f}" if key in r else "" for key, digits in rest))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B/32", choices=["embedded", *SHAPES])
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="1 8 32 by default, on a GPU 1 16 128 512")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--scaling", action="store_true", help="also time against pairs, samples, steps and model")
    parser.add_argument("--throughput", action="store_true", help="measure (f) instead, as is done on a GPU")
    parser.add_argument("--models", nargs="+", help="of (f): embedded, those of --model, SigLIP 2 B/16; all by default")
    parser.add_argument("--minutes", type=float, default=6, help="of (f): what would begin later is left out")
    parser.add_argument("--pairs", type=int, help="of (f): predicted from files; 2,048 by default, on a GPU 24,576")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark.json"))
    parser.add_argument("--peak-memory", nargs=2, metavar=("SIZE", "PRECISION"), help="print this alone, in MB")
    arguments = parser.parse_args()
    if arguments.peak_memory:
        backbone, (size, precision) = random_clip(arguments.model, arguments.device), arguments.peak_memory
        batch = scenes(backbone, int(size))
        print(own_peak_memory(lambda: explain(backbone, batch, precision), arguments.device))
        return
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": arguments.device,
    }
    result["start_up"] = start_up(5 if arguments.device == "cpu" else 2)  # a GPU is not kept waiting
    for name, seconds in result["start_up"].items():
        console.print(f"{name:>24}  {seconds:.2f} s")
    if arguments.throughput or arguments.device == "cuda":
        import throughput

        models, sizes = arguments.models or throughput.MODELS, arguments.batch_sizes or [1, 16, 128, 512]
        # Enough batches for all that read ahead.
        pairs = arguments.pairs or (24576 if arguments.device == "cuda" else 2048)
        result |= throughput.measure(models, sizes, arguments.device, arguments.minutes, pairs)
        for name in ("end_to_end", "throughput"):
            throughput.show(result[name], name.replace("_", " "), console)
    else:
        sizes = arguments.batch_sizes or [1, 8, 32]
        result["rows"] = compare(arguments.model, sizes, arguments.repeats, arguments.device)
        show(result["rows"])
    if arguments.scaling:
        result["scaling"] = scaling(arguments.device)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1))
    console.print(f"Written: {arguments.output}")


if __name__ == "__main__":
    main()
