#!/usr/bin/env python
"""Compare attribution methods on scenes with known truth: a table, a Parquet of per-pair values and an HTML page.

    python scripts/compare.py --scenes 60 --first 10000 --output outputs/comparison
    python scripts/compare.py --methods M2IB Chefer GradCAM --named 2 --objects 4
    python scripts/compare.py --methods M2IB Chefer GradCAM --kind clutter

The same command goes on where a killed one stopped. All numbers follow from the arguments and the seeds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from m2ib_lightning import RELEASED, AttributionStore, PairDataModule, load_backbone, methods
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import KINDS, scene_counts
from m2ib_lightning.data.pairs import read_pair
from m2ib_lightning.evaluation import Comparison, Protocol, compare, sanity_metrics, standard_metrics
from m2ib_lightning.report.comparison import comparison_tables, difference_tables
from m2ib_lightning.report.comparison_page import save_comparison_page


def candidates(backbone: Backbone, samples: int | None) -> dict[str, methods.AttributionMethod]:
    """Every method, by the label of the table; `samples` for RISE and KernelSHAP, their own defaults if None."""
    drawn: dict[str, Any] = {} if samples is None else {"samples": samples}
    # NIB's released layers, and earlier ones that suit it better here.
    third = {"image_layer": round(backbone.image.depth / 3), "text_layer": "embeddings"}
    return {
        "random": methods.RandomMap(backbone),
        "centre": methods.CentrePrior(backbone),
        "M2IB": methods.M2IB(backbone),
        "M2IB-released": methods.M2IB(backbone, **RELEASED),
        "NIB": methods.NIB(backbone),
        "NIB-early": methods.NIB(backbone, **third),
        "GradCAM": methods.GradCAM(backbone),
        "Saliency": methods.Saliency(backbone),
        "SmoothGrad": methods.SmoothGrad(backbone),
        "IntegratedGradients": methods.IntegratedGradients(backbone),
        "Chefer": methods.Chefer(backbone),
        "Chefer-cosine": methods.Chefer(backbone, scale=1.0),
        "Rollout": methods.AttentionRollout(backbone),
        "GradECLIP": methods.GradECLIP(backbone),
        "LeGrad": methods.LeGrad(backbone),
        "Occlusion": methods.Occlusion(backbone),
        "RISE": methods.RISE(backbone, **drawn),
        "KernelSHAP": methods.KernelSHAP(backbone, **drawn),
    }


def examples(comparison: Comparison, data: PairDataModule, count: int = 4) -> list[dict[str, Any]]:
    """The first pairs with every method's map over the picture and its two strongest words."""
    shown = []
    stores = {m: AttributionStore(comparison.folder / m / "attributions" / "part-000000") for m in comparison.methods}
    for index in range(min(count, data.batch_size, len(data))):
        pair = read_pair(data.pairs[index])
        picture = pair.image.convert("RGB").resize((192, 192), Image.Resampling.BICUBIC)
        overlays, words = {"image": picture}, {}
        for method, store in stores.items():
            a = store[pair.id]
            if a.image_map is not None:
                overlays[method] = a.overlay(picture)
            if a.text_map is not None:
                words[method] = ", ".join(f"{w} {v:.2g}" for w, v in sorted(a.words(), key=lambda word: -word[1])[:2])
        shown.append({"id": pair.id, "text": pair.text, "overlays": overlays, "words": words})
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--first", type=int, default=10_000, help="seed of the first scene")
    parser.add_argument("--kind", default="plain", choices=KINDS, help="what the scenes are like")
    parser.add_argument("--objects", type=int, help="of a scene; what the kind has by default")
    parser.add_argument("--named", type=int, help="of them; what the kind has by default")
    parser.add_argument("--methods", nargs="+", help="labels; all by default")
    parser.add_argument("--samples", type=int, help="of RISE and KernelSHAP; 4000 and 1000 by default")
    parser.add_argument("--protocol", default="corrected", choices=["corrected", "as_released"])
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="such as PointingGame; all by default")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="of the explaining")
    parser.add_argument("--sanity", action="store_true", help="also explain changed models and inputs, 5 times slower")
    parser.add_argument("--against", default="M2IB", help="whose differences to the others are shown")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--output", default="outputs/comparison")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    backbone = load_backbone(arguments.backbone)
    known = candidates(backbone, arguments.samples)
    unknown = set(arguments.methods or ()) - set(known)
    if unknown:
        parser.error(f"Expected --methods of {', '.join(known)} but got {', '.join(sorted(unknown))}.")
    chosen = {label: known[label] for label in ["random", *(arguments.methods or list(known))]}
    data = PairDataModule(
        scenes=arguments.scenes, scene_seed=arguments.first, scene_objects=arguments.objects,
        scene_named=arguments.named, scene_kind=arguments.kind, batch_size=arguments.batch_size,
    )  # fmt: skip
    metrics = standard_metrics() + (sanity_metrics() if arguments.sanity else [])
    names = list(dict.fromkeys(type(metric).__name__ for metric in metrics))
    unknown = set(arguments.metrics or ()) - set(names)
    if unknown:
        parser.error(f"Expected --metrics of {', '.join(names)} but got {', '.join(sorted(unknown))}.")
    metrics = [metric for metric in metrics if type(metric).__name__ in (arguments.metrics or names)]
    started = time.perf_counter()
    protocol = Protocol(name=arguments.protocol)
    found = compare(chosen, data, arguments.output, metrics, protocol, console.print, arguments.precision)
    against = arguments.against if arguments.against in chosen else next(iter(chosen))
    for table in comparison_tables(found, console.width) + difference_tables(found, against, console.width):
        console.print(table)
    objects, named = scene_counts(arguments.kind, arguments.objects, arguments.named)
    caption = (
        f"{backbone.name}, {arguments.scenes} {arguments.kind} scenes from seed {arguments.first}, {objects} objects "
        f"of which {named} named; {found.protocol.caption}."
    )
    page = Path(arguments.output) / "comparison.html"
    save_comparison_page(found, page, against, caption, examples(found, data))
    console.print(f"{caption}\n{time.perf_counter() - started:.0f} s. Written: {page} and pairs.parquet beside it.")


if __name__ == "__main__":
    main()
