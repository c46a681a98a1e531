"""Write what a run found as one HTML file to look through.

It filters and sorts the pairs and shows each with its map, its words and its curves, without a server or a network.
`fit`, `predict` and `test` write it themselves for up to 2,000 pairs.
"""

from __future__ import annotations

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser


def add_arguments(parser: LightningArgumentParser) -> None:
    """Add the folder and the file."""
    parser.add_argument("output", type=str, help="Folder of a fit, a prediction or a test.")
    parser.add_argument("--file", type=str | None, default=None, help="The page; OUTPUT/gallery.html by default.")


def run(parser: LightningArgumentParser, config: Namespace) -> None:
    """Write the page and say where it is."""
    from m2ib_lightning.report.gallery import save_run_gallery

    made = save_run_gallery(config.output, config.file)
    size = made.path.stat().st_size / 1e6
    print(f"{made.path}  {made.pairs} pairs, {made.pictures} with their picture, {size:.1f} MB")
