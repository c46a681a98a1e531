"""Check in two minutes whether a model is one that M2IB explains well, and write a page.

On your pairs, or on drawings that are composed here; no truth is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import M2IB, AttributionMethod
from m2ib_lightning.types import Pair

SHOWN = 8
"""The first pairs, which the page shows."""


def add_arguments(parser: OneLineParser) -> None:
    """Add the model, the pairs and the time."""
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with options.")
    parser.add_argument("--output", type=str | None, default=None, help="Folder; outputs/check-DATE-TIME by default.")
    parser.add_argument("--pairs", type=int, default=32, help="How many at most.")
    parser.add_argument("--minutes", type=float, default=2.0, help="No further pairs are begun after them.")
    parser.add_lightning_class_args(AttributionMethod, "model", subclass_mode=True)
    parser.add_lightning_class_args(PairDataModule, "data")
    parser.set_defaults({"model": {"class_path": "m2ib_lightning.M2IB"}})


def run(parser: OneLineParser, config: Namespace) -> None:
    """Measure, print the text and write the page.

    Raises:
        ValueError: The method is not M2IB.
    """
    from m2ib_lightning.callbacks.summary import print_written
    from m2ib_lightning.cli.run import default_output
    from m2ib_lightning.evaluation.check import check_model
    from m2ib_lightning.report.check_page import save_check_page

    def make(backbone: Backbone | None = None, **changes: Any) -> M2IB:
        method = parser.make_m2ib(config, **changes)
        method.backbone = backbone
        return method

    pairs = _pairs(parser.instantiate(config).data, config)
    health = check_model(make, pairs, config.minutes, tell=lambda done: print(f"\r{done} pairs", end="", flush=True))
    folder = Path(config.output or default_output("check"))
    folder.mkdir(parents=True, exist_ok=True)
    save_check_page(health, folder / "check.html", pairs[:SHOWN])
    (folder / "check.txt").write_text(health.text() + "\n", encoding="utf-8")
    print(f"\r{health.text()}")
    print_written(folder)


def _pairs(data: PairDataModule, config: Namespace) -> list[Pair]:
    """The user's pairs, or drawings that are composed large."""
    from m2ib_lightning.data import FirstPairs, make_scene, read_pair

    if data.scenes is not None:
        seed, count = config.data.scene_seed, config.data.scenes or config.pairs
        made = [make_scene(seed + i, size=384, kind=config.data.scene_kind) for i in range(min(count, config.pairs))]
        return [Pair(f"scene-{seed + i:06d}", scene.image, scene.text) for i, scene in enumerate(made)]
    return [read_pair(pair, truth=False) for pair in FirstPairs(data.open(), config.pairs).references()]
