#!/usr/bin/env python
"""ROAR+: retrieval by models tuned without what each method calls most relevant. Larger falls are better.

On scenes, or on the pairs of a table of `m2ib reproduce`:

    python scripts/roar.py --train 600 --test 300
    python scripts/roar.py --methods M2IB Chefer
    python scripts/roar.py --table m2ib-cc --data FOLDER --backbone openai/clip-vit-base-patch32
"""

from __future__ import annotations

import argparse
import sys

from lightning.pytorch.cli import LightningArgumentParser
from retraining import Tuning, roar
from rich.console import Console
from rich.status import Status
from rich.table import Table

from m2ib_lightning import M2IB, RELEASED, load_backbone, methods
from m2ib_lightning.data import FirstPairs, PairDataModule, make_scene, open_source, read_pair
from m2ib_lightning.evaluation import interval, paired_interval
from m2ib_lightning.evaluation.published import load_table
from m2ib_lightning.types import Pair

COMPARED = {
    "RandomMap": methods.RandomMap,
    "M2IB": M2IB,
    "M2IB-released": lambda backbone: M2IB(backbone, **RELEASED),
    "GradCAM": methods.GradCAM,
    "Saliency": methods.Saliency,
    "Chefer": methods.Chefer,
    "GradECLIP": methods.GradECLIP,
    "LeGrad": methods.LeGrad,
}
"""What is removed by, made with the backbone; by the label of the table."""


def scenes(first: int, count: int) -> list[Pair]:
    """Scenes of three objects, all of them named, so that captions tell pictures apart."""
    made = [make_scene(first + i, named=3) for i in range(count)]
    return [Pair(str(first + i), scene.image, scene.text) for i, scene in enumerate(made)]


def of_table(name: str, at: str | None, count: int) -> list[Pair]:
    """The first pairs of a published table's data, from its hub name or a folder."""
    table = load_table(name)
    read = table.reading(at or table.data or "")
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(PairDataModule, "data")
    made = parser.instantiate_classes(parser.parse_object({"data": read})).data
    source = made.dataset or open_source(made.source, made.columns)
    return [read_pair(pair, truth=False) for pair in FirstPairs(source, count).references()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--train", type=int, default=300, help="scenes to tune on")
    parser.add_argument("--test", type=int, default=100, help="scenes to retrieve")
    parser.add_argument("--scene_seed", type=int, default=30_000, help="seed of the first scene")
    parser.add_argument("--table", help="a table of `m2ib reproduce` instead of scenes")
    parser.add_argument("--data", help="folder with the table's data instead of the hub's")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=list(COMPARED), choices=COMPARED)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    backbone = load_backbone(arguments.backbone)
    labels = dict.fromkeys(("RandomMap", *arguments.methods))
    chosen = {"nothing removed": None} | {label: COMPARED[label](backbone) for label in labels}
    count = arguments.train + arguments.test
    pairs = of_table(arguments.table, arguments.data, count) if arguments.table else scenes(arguments.scene_seed, count)
    train, test = pairs[: arguments.train], pairs[arguments.train :]
    tuning = Tuning(steps=arguments.steps)
    found = {}
    for label, method in chosen.items():
        with console.status(label) as status:

            def tell(step: int, loss: float, label: str = label, status: Status = status) -> None:
                status.update(f"{label}: step {step + 1} of {tuning.steps}, loss {loss:.3f}")

            found[label] = roar(method, backbone, train, test, tuning, tell).numpy()
        console.print(f"{label}: accuracy {found[label].mean():.3f}")
    table = Table("removed by", "retrieval accuracy (95 % interval)", "fall ↑", "fall minus RandomMap's")
    clean, random = found["nothing removed"], found["RandomMap"]
    for label, hits in found.items():
        cells = [interval(hits), paired_interval(clean, hits), paired_interval(random, hits)]
        table.add_row(label, *(f"{i.mean:.3f} ({i.low:.3f}..{i.high:.3f})" for i in cells))
    table.caption = f"{backbone.name}, {len(train)} training and {len(test)} test pairs, {tuning}"
    console.print(table)


if __name__ == "__main__":
    main()
