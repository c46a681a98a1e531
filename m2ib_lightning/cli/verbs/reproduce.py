"""Measure a published table again, on your machine, beside what was printed.

It says first what it downloads and how long it takes, and asks. The same command goes on where a stopped one was. With
--data and --model it needs no network.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.cli.verbs import compare as compare_verb
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.types import PairBatch


def add_arguments(parser: OneLineParser) -> None:
    """Add which table, and where its model and pairs are."""
    parser.add_argument("table", type=str, nargs="?", default=None, help="Name of a table, or a YAML file of yours.")
    parser.add_argument("--list", action="store_true", help="Say which tables there are.")
    parser.add_argument("--pairs", type=int | None, default=None, help="How many; fewer make wider intervals.")
    parser.add_argument("--model", type=str | None, default=None, help="A folder or hub name instead of the table's.")
    parser.add_argument("--data", type=str | None, default=None, help="A folder with the data instead of the hub's.")
    parser.add_argument("--slow", type=bool, default=False, help="Whether methods that take very long are run too.")
    parser.add_argument("--yes", action="store_true", help="Begin without asking.")
    parser.add_argument("--output", type=str | None, default=None, help="Folder; outputs/reproduce-TABLE by default.")
    parser.add_argument("--accelerator", default="auto", help="As of --trainer.accelerator.")


def run(parser: OneLineParser, config: Namespace) -> None:
    """Say the plan, ask, measure, and write the page.

    Raises:
        ValueError: There is no such table, something is missing that is on no hub, or the folder holds other pairs.
    """
    from m2ib_lightning.evaluation.published import load_table, table_names

    if config.list or config.table is None:
        width = max(map(len, table_names()))
        print("\n".join(f"{name:{width}}  {load_table(name).title}" for name in table_names()))
        return
    table = load_table(config.table)
    pairs = table.pairs if config.pairs is None else config.pairs
    check_at_least("pairs", pairs, 1)
    print(table.plan(pairs, config.data, config.model))
    for given, known, what in ((config.data, table.data, "data"), (config.model, table.model, "model")):
        if given is None and known is None:
            hint = table.get if what == "data" else table.model_note
            raise ValueError(f"Expected --{what} FOLDER, since it is on no hub, but got none. Remedy: {hint}")
    if not config.yes and not _agreed():
        print("Nothing was done. Add --yes to begin.")
        return
    measure(config, table, pairs)


def _agreed() -> bool:
    return sys.stdin.isatty() and input("Begin? [y/N] ").strip().lower() in ("y", "yes")


def measure(config: Namespace, table: Any, count: int) -> None:
    """Compare under each protocol, explaining once, and write the page."""
    from m2ib_lightning.callbacks import PairProgress
    from m2ib_lightning.callbacks.summary import print_written
    from m2ib_lightning.comparison import compare
    from m2ib_lightning.data import FirstPairs, PairDataModule, read_pair
    from m2ib_lightning.evaluation import Comparison, Protocol
    from m2ib_lightning.report.comparison_page import make_examples
    from m2ib_lightning.report.reproduction_page import cells, save_reproduction_page, write_cells

    folder = Path(config.output or f"outputs/reproduce-{table.name}")
    methods = {**table.methods, **(table.slow if config.slow else {})}
    made = _instantiate(table.reading(config.data or table.data), methods, table.metrics, config.model or table.model)
    chosen = FirstPairs(made.data.open(), count)
    _check_same(folder / "pairs.json", {"table": table.name, "pairs": chosen.count(), "digest": chosen.digest})
    data = PairDataModule(dataset=chosen, batch_size=10)
    found: dict[str, Comparison] = {}
    explained: dict[str, AttributionMethod] = made.methods
    for protocol in table.protocols:
        found[protocol] = compare(
            explained, data, folder / protocol, made.metrics, Protocol(name=protocol),
            progress=lambda label: [PairProgress(label)], accelerator=config.accelerator,
        )  # fmt: skip
        explained = {label: _Kept(method, folder / protocol / label) for label, method in explained.items()}
    first = next(iter(made.methods.values()))
    caption = (
        f"{first.backbone_name}, weights {first.prepare().weight_hash}; {chosen.count()} pairs of "
        f"{config.data or table.data}, hash {chosen.digest}."
    )
    examples = make_examples(found[table.protocols[0]], [read_pair(pair) for pair in list(chosen.references())[:4]])
    left_out = [f"{bad.id}: {bad.error}" for bad in chosen.bad]
    save_reproduction_page(table, found, folder / "reproduction.html", caption, examples, left_out)
    rows = cells(table, found)
    write_cells(rows, folder / "reproduction.csv")
    print(caption)
    for cell in rows:
        if cell.published is not None and cell.ours is not None:
            print(f"{cell.method:12} {cell.metric.name:24} ours {cell.ours.mean:8.3f}   published {cell.published:g}")
    if left_out:
        print(f"{len(left_out)} pairs could not be read; the first: {left_out[0]}")
    print_written(folder)


def _instantiate(data: dict[str, Any], methods: dict[str, Any], metrics: Any, model: str) -> Any:
    """Data, methods and metrics, as the options of `m2ib compare` make them."""
    parser = OneLineParser(prog="m2ib reproduce", verb="compare")
    compare_verb.add_arguments(parser)
    given = {"methods": methods, "metrics": list(metrics), "data": data, "backbone": model}
    made = parser.instantiate(parser.parse_object(copy.deepcopy(given)))
    for method in made.methods.values():
        method.backbone_name = model
    return made


def _check_same(path: Path, now: dict[str, Any]) -> None:
    """Refuse a folder that holds what other pairs gave.

    Raises:
        ValueError: It does.
    """
    from m2ib_lightning.files import replacing

    if path.is_file():
        there = json.loads(path.read_text("utf-8"))
        if there != now:
            raise ValueError(
                f"Expected the pairs of the results in {str(path.parent)!r} ({there['pairs']} with the hash "
                f"{there['digest']}) but got {now['pairs']} with {now['digest']}. "
                "Remedy: choose another --output, or the same data."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(now), encoding="utf-8")


class _Kept(AttributionMethod):
    """What another method has said before, to be scored under another protocol."""

    unrecorded = ("backbone", "method", "folder")

    def __init__(self, method: AttributionMethod, folder: Path) -> None:
        from m2ib_lightning.store import AttributionStore

        super().__init__(method.prepare(), method.modalities)
        self.unit, self._settings, self.store = method.unit, method.settings, AttributionStore(folder / "attributions")

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the method."""
        return self._settings

    def attribute(self, batch: PairBatch) -> list[Attribution]:
        """Looked up by the pairs' ids."""
        return [self.store[pair.id] for pair in batch.pairs]
