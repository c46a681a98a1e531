"""Write what a run found as one HTML file to look through.

It filters and sorts the pairs and shows each with its map, its words and its curves, without a server or a network.
`fit`, `predict` and `test` write it themselves for up to 1,000 pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from m2ib_lightning.cli.parser import OneLineParser


def add_arguments(parser: OneLineParser) -> None:
    """Add the folder and the file."""
    parser.add_argument("output", type=str, help="Folder of a fit, a prediction or a test.")
    parser.add_argument("--file", type=str | None, default=None, help="The page; OUTPUT/gallery.html by default.")


def run(parser: OneLineParser, config: Namespace) -> None:
    """Write the page and say where it is."""
    from m2ib_lightning.report.gallery import save_run_gallery

    made = save_run_gallery(config.output, config.file, _order(Path(config.output) / "config.yaml"))
    size = made.path.stat().st_size / 1e6
    print(f"{made.path}  {made.pairs} pairs, {made.pictures} with their picture, {size:.1f} MB")


def _order(config: Path) -> Sequence[str]:
    """The ids of a run's pairs in the order of its data, none where those cannot be read any more."""
    from m2ib_lightning.data import PairDataModule

    if not config.is_file():
        return ()
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(PairDataModule, "data")
    given = parser.parse_object({"data": yaml.safe_load(config.read_text("utf-8")).get("data", {})})
    try:
        data: PairDataModule = parser.instantiate(given)["data"]
        data.setup("predict")
        return data.listed_ids()
    except (OSError, ValueError):
        return ()
