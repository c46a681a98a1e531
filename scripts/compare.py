#!/usr/bin/env python
"""Compare attribution methods on scenes with known truth, or on your pairs.

Makes tables, a Parquet file of per-pair values and an HTML page.

    python scripts/compare.py --scenes 60 --first 10000 --output outputs/comparison
    python scripts/compare.py --methods M2IB Chefer GradCAM --named 2 --objects 4
    python scripts/compare.py --methods M2IB Chefer GradCAM --kind clutter
    python scripts/compare.py --backbone openai/clip-vit-base-patch32 --data.source truth.csv

The same command goes on where a killed one stopped. All numbers follow from the arguments and the seeds.
"""

from __future__ import annotations

import inspect
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter, Namespace
from PIL import Image
from rich.console import Console

from m2ib_lightning import RELEASED, AttributionStore, PairDataModule, load_backbone, methods
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.data import KINDS, scene_counts
from m2ib_lightning.data.pairs import read_pair
from m2ib_lightning.errors import explained, fail
from m2ib_lightning.evaluation import Comparison, Protocol, compare, sanity_metrics, standard_metrics
from m2ib_lightning.report.comparison import comparison_tables, difference_tables
from m2ib_lightning.report.comparison_page import save_comparison_page

DATA = inspect.signature(PairDataModule).parameters


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Defaults shown, the examples left as they are."""


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


def arguments() -> Namespace:
    """What is asked for, with `data` made."""
    parser = OneLineParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--backbone", default="embedded", help="a hub name, a folder, or embedded")
    parser.add_argument("--scenes", type=int, default=60, help="so many, unless --data names something else")
    parser.add_argument("--first", type=int, default=10_000, help="seed of the first scene")
    parser.add_argument("--kind", default="plain", choices=KINDS, help="what the scenes are like")
    parser.add_argument("--objects", type=int, help="of a scene; what the kind has by default")
    parser.add_argument("--named", type=int, help="of them; what the kind has by default")
    parser.add_class_arguments(PairDataModule, "data", skip={name for name in DATA if name.startswith("scene")})
    parser.set_defaults({"data.batch_size": 20})
    parser.add_argument("--methods", nargs="+", metavar="LABEL", help="all by default")
    parser.add_argument("--samples", type=int, help="of RISE and KernelSHAP; 4000 and 1000 by default")
    parser.add_argument("--protocol", default="corrected", choices=["corrected", "as_released"])
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="such as PointingGame; all by default")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="of the explaining")
    parser.add_argument("--sanity", action="store_true", help="also explain changed models and inputs, 5 times slower")
    parser.add_argument("--against", default="M2IB", help="whose differences to the others are shown")
    parser.add_argument("--output", default="outputs/comparison")
    given = parser.instantiate(parser.parse_args())
    data = given.data
    if data.image is None and data.source is None and data.dataset is None:
        given.data = PairDataModule(
            scenes=given.scenes, scene_seed=given.first, scene_objects=given.objects, scene_named=given.named,
            scene_kind=given.kind, batch_size=data.batch_size,
        )  # fmt: skip
    return given


def known(wanted: list[str] | None, all_known: Sequence[str], flag: str) -> list[str]:
    """What is wanted, in that order; all by default.

    Raises:
        ValueError: There is no such thing.
    """
    if unknown := set(wanted or ()) - set(all_known):
        raise ValueError(
            f"Expected --{flag} of {', '.join(all_known)} but got {', '.join(sorted(unknown))}. Remedy: choose others."
        )
    return list(wanted or all_known)


def describe(data: PairDataModule) -> str:
    """What was explained, for the caption."""
    if not data.scenes:
        return f"{len(data)} pairs of {data.source or data.image or type(data.dataset).__name__}"
    first, objects, named, kind = data.scene_options
    objects, named = scene_counts(kind, objects, named)
    return f"{data.scenes} {kind} scenes from seed {first}, {objects} objects of which {named} named"


def run(given: Namespace) -> None:
    """Compare, print the tables and write the page."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    protocol, data = Protocol(name=given.protocol), given.data
    metrics = standard_metrics() + (sanity_metrics() if given.sanity else [])
    wanted = known(given.metrics, list(dict.fromkeys(type(m).__name__ for m in metrics)), "metrics")
    metrics = [metric for metric in metrics if type(metric).__name__ in wanted]
    backbone = load_backbone(given.backbone)
    possible = candidates(backbone, given.samples)
    chosen = {label: possible[label] for label in ("random", *known(given.methods, list(possible), "methods"))}
    started = time.perf_counter()
    found = compare(chosen, data, given.output, metrics, protocol, console.print, given.precision)
    against = given.against if given.against in chosen else next(iter(chosen))
    for table in comparison_tables(found, console.width) + difference_tables(found, against, console.width):
        console.print(table)
    caption = f"{backbone.name}, {describe(data)}; explained in {given.precision}; {found.protocol.caption}."
    page = Path(given.output) / "comparison.html"
    save_comparison_page(found, page, against, caption, examples(found, data))
    console.print(f"{caption}\n{time.perf_counter() - started:.0f} s. Written: {page} and pairs.parquet beside it.")


def main() -> None:
    try:
        run(arguments())
    except Exception as error:
        if (reason := explained(error)) is None:
            raise
        fail(reason)


if __name__ == "__main__":
    main()
