#!/usr/bin/env python
"""Measure what a pair costs where there are very many: computing, decoding, bytes in the store, and resuming.

    python scripts/many_pairs.py --scenes 100
    python scripts/many_pairs.py --scenes 3000 --watch GradCAM     # memory and open files while that predicts

One thread of one core. Maps are the scenes' own; those of a larger grid are random values, which no file makes smaller.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from on_scenes import drawn, explain, keep, options_of
from PIL import Image

from m2ib_lightning import M2IB, Attribution, AttributionStore, load_backbone
from m2ib_lightning.cli import main as main_of_m2ib
from m2ib_lightning.data.images import load_image

PART = 512

EACH = 100
"""Pairs of a part while a prediction is watched."""


def seconds(run: Callable[[], object], times: int = 5) -> float:
    """The median of several runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def decoding(folder: Path, size: tuple[int, int] = (640, 480)) -> float:
    """Seconds to read a JPEG file with as much detail as a photograph."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (size[1], size[0], 3))
    written = io.BytesIO()
    Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=90)
    path = folder / "photograph.jpg"
    path.write_bytes(written.getvalue())
    return seconds(lambda: load_image(path), 50)


def store_of(
    results: Sequence[Attribution], folder: Path, grid: int | None = None, parts: int = 1, precision: str = "float32"
) -> AttributionStore:
    """Parts of 512 results each. No two have an id or a value in common, which would make the files smaller."""
    store, rng = AttributionStore(folder), np.random.default_rng(0)

    def unlike(values: np.ndarray) -> np.ndarray:
        return (values * rng.uniform(0.9, 1.1, values.shape)).astype(np.float32)

    def copy(number: int) -> Attribution:
        result = results[number % len(results)]
        image_map = rng.exponential(size=(grid, grid)) if grid else result.image_map
        history = {name: unlike(values) for name, values in result.history.items()}
        changed = {"image_map": unlike(image_map), "text_map": unlike(result.text_map), "history": history}
        return replace(result, id=f"{number:012d}", **changed)

    for part in range(parts):
        store.append([copy(number) for number in range(part * PART, (part + 1) * PART)], precision=precision)
    return store


def bytes_of(store: AttributionStore) -> float:
    """The files' bytes for a pair."""
    return sum(path.stat().st_size for path in store.parts) / (PART * len(store.parts))


def watched(model: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Run `m2ib predict` over the scenes; pairs written, MiB resident and open files whenever a part has come."""
    folder = options.output / "watched"
    shutil.rmtree(folder, ignore_errors=True)
    program = ["predict", f"--output={folder}", f"--model={model}"]
    program += [f"--data.scenes={options.scenes}", f"--data.scene_seed={options.scene_seed}"]
    program += [f"--part_pairs={EACH}", "--part_seconds=1e9", "--gallery=false", "--trainer.enable_progress_bar=false"]
    program += ["--model.steps=2"] * (model == "M2IB")
    rows: list[dict[str, float]] = []
    run, about = multiprocessing.get_context("fork").Process(target=main_of_m2ib, args=(program,)), Path("/proc")
    run.start()
    while run.is_alive():
        pairs = EACH * len(AttributionStore(folder / "attributions").parts)
        with contextlib.suppress(OSError, StopIteration):  # it has just ended
            status = (about / str(run.pid) / "status").read_text().splitlines()
            resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
            row = {"pairs": pairs, "MiB": resident / 1024, "open files": len(os.listdir(about / str(run.pid) / "fd"))}
            if not rows or rows[-1]["pairs"] != pairs:
                rows.append(row)
        time.sleep(0.05)
    if run.exitcode:
        sys.exit(f"Expected a prediction that ends well but got the exit status {run.exitcode}.")
    return rows


def growth(rows: Sequence[dict[str, float]], name: str) -> float:
    """Of a value per 1,000 pairs: the slope of a line through what was seen after a third of the pairs."""
    late = [row for row in rows if row["pairs"] >= rows[-1]["pairs"] / 3]
    return float(1000 * np.polyfit([row["pairs"] for row in late], [row[name] for row in late], 1)[0])


def main() -> None:
    """Measure all of it."""
    parser = options_of(__doc__, scenes=100, scene_seed=20_000, output="outputs/many_pairs")
    parser.add_argument("--watch", choices=("GradCAM", "M2IB"), help="only memory and open files of a prediction")
    options = parser.parse_args()
    if options.watch:
        rows = watched(options.watch, options)
        keep(rows, options)
        print(", ".join(f"{name}: {growth(rows, name):+.2f} per 1,000 pairs" for name in ("MiB", "open files")))
        return
    torch.set_num_threads(1)
    scenes, method = drawn(options), M2IB(load_backbone(options.backbone))
    explain(method, scenes[:1])
    begun = time.perf_counter()
    results = explain(method, scenes)
    row = {"seconds of computing": (time.perf_counter() - begun) / len(scenes)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row["seconds of decoding"] = decoding(folder)
        row["bytes, its own map"] = bytes_of(store_of(results, folder / "own"))
        row["bytes, 24 x 24"] = bytes_of(store_of(results, folder / "large", grid=24))
        row["bytes, 24 x 24, float16"] = bytes_of(store_of(results, folder / "half", grid=24, precision="float16"))
        many = store_of(results, folder / "many", parts=40)
        row["ids a second"] = 40 * PART / seconds(lambda: AttributionStore(many.folder).ids())
    keep([row], options)


if __name__ == "__main__":
    main()
