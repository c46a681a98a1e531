"""Explain and score the same pairs by several methods, side by side on one page.

Random, centre and uniform maps are scored beside them. The same command goes on where a stopped one was.
"""

from __future__ import annotations

from typing import Any

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.names import subclasses
from m2ib_lightning.precision import Precision, precision_on

METHODS = ("M2IB", "GradCAM", "Saliency", "IntegratedGradients", "Chefer", "GradECLIP", "LeGrad")
"""What is compared by default: methods that need a second or less for a pair."""

SHOWN = 4
"""The first pairs, which the page shows."""


def add_arguments(parser: OneLineParser) -> None:
    """Add what is compared, on what, and by which metrics."""
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with options.")
    parser.add_argument(
        "--output", type=str | None, default=None,
        help="Folder for everything that is written; outputs/compare-DATE-TIME by default.",
    )  # fmt: skip
    parser.add_argument(
        "--methods", type=list[AttributionMethod] | dict[str, AttributionMethod], default=list(METHODS),
        help="What is compared: [M2IB,GradCAM], or labels of yours with the class and its arguments as YAML.",
    )  # fmt: skip
    parser.add_argument("--backbone", default="embedded", help="The model of all methods, as of --model.backbone.")
    parser.add_argument(
        "--sanity", type=bool, default=False,
        help="Whether to explain changed models and inputs as well, which takes five times as long.",
    )  # fmt: skip
    parser.add_argument("--against", type=str | None, default=None, help="Whose differences to the others are shown.")
    parser.add_argument(
        "--precision", type=Precision | None, default=None,
        help="What methods compute in; bfloat16 on a GPU and float32 elsewhere by default.",
    )  # fmt: skip
    parser.add_argument("--accelerator", default="auto", help="What they compute on, as of --trainer.accelerator.")
    parser.add_lightning_class_args(PairDataModule, "data")
    parser.set_defaults({"data.batch_size": 20})
    parser.add_measures()
    parser.add_phrases()
    known = ", ".join(subclasses(AttributionMethod))
    parser.describe("methods", f"[M2IB,GradCAM], or as YAML labels of yours with classes and arguments; of {known}.")


def run(parser: OneLineParser, config: Namespace) -> None:
    """Compare, print the tables and write the page."""
    import time
    from pathlib import Path

    from rich.console import Console

    from m2ib_lightning.callbacks import PairProgress
    from m2ib_lightning.callbacks.summary import print_written
    from m2ib_lightning.cli.run import default_output
    from m2ib_lightning.comparison import compare
    from m2ib_lightning.data.pairs import read_pair
    from m2ib_lightning.evaluation import Protocol, sanity_metrics, standard_metrics
    from m2ib_lightning.report.comparison import comparison_tables, difference_tables
    from m2ib_lightning.report.comparison_page import make_examples, save_comparison_page

    made = parser.instantiate(config)
    data, folder = made.data, Path(made.output or default_output("compare"))
    data.setup("test")  # what is wrong with the pairs is said before a model is loaded
    methods = _on(made.backbone, made.methods)
    labels = list(methods) if isinstance(methods, dict) else [type(method).__name__ for method in methods]
    against = made.against or labels[0]
    if against not in labels:
        raise ValueError(f"Expected --against of {', '.join(labels)} but got {against}. Remedy: choose one of these.")
    metrics = (standard_metrics() if made.metrics is None else made.metrics) + sanity_metrics() * made.sanity
    precision = made.precision or precision_on(made.accelerator)
    started = time.perf_counter()
    found = compare(
        methods, data, folder, metrics, Protocol(name=made.protocol), precision,
        lambda label: [PairProgress(label)], made.accelerator,
    )  # fmt: skip
    if against not in found.methods:  # left out, as `compare` has said
        against = next(label for label in labels if label in found.methods)
    console = Console()
    for table in comparison_tables(found, console.width) + difference_tables(found, against, console.width):
        console.print(table)
    caption = f"{made.backbone}, {_described(data)}; explained in {precision}; {found.protocol.caption}."
    pairs = [read_pair(data.pairs[i]) for i in range(min(SHOWN, len(data)))]
    save_comparison_page(found, folder / "comparison.html", against, caption, make_examples(found, pairs))
    console.print(f"{caption}\n{time.perf_counter() - started:.0f} s", highlight=False)
    print_written(folder)


def _on(backbone: str, methods: Any) -> Any:
    """The methods, those that name no model of their own on the given one."""
    for method in methods.values() if isinstance(methods, dict) else methods:
        if method.backbone_name == "embedded":
            method.backbone_name = backbone
    return methods


def _described(data: PairDataModule) -> str:
    """What was explained, for the caption."""
    from m2ib_lightning.data import scene_counts

    if not data.scenes:
        return f"{len(data)} pairs of {data.source or data.image or type(data.dataset).__name__}"
    first, objects, named, kind = data.scene_options
    objects, named = scene_counts(kind, objects, named)
    most = "up to " if kind == "hard" else ""
    return f"{data.scenes} {kind} scenes from seed {first}, {most}{objects} objects of which {most}{named} named"
