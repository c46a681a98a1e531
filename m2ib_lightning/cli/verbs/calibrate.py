"""Find the layers, betas and priors that suit a model, from 8 to 64 of your pairs and without ground truth.

Every verb takes the folder that it writes: m2ib predict --config FOLDER/calibration.yaml --data.source pairs.csv
"""

from __future__ import annotations

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from m2ib_lightning.calibration import calibrate
from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.data import PairDataModule


def add_arguments(parser: OneLineParser) -> None:
    """Add the model, the pairs and what is tried."""
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with options.")
    parser.add_argument(
        "--output", type=str | None, default=None, help="Folder that is written; outputs/calibration-HASH by default."
    )
    parser.add_argument("--model.backbone", default="embedded", help="The model, as of any other verb.")
    parser.add_function_arguments(calibrate, skip={"pairs", "backbone", "batch_size", "progress"})
    parser.add_lightning_class_args(PairDataModule, "data")


def run(parser: OneLineParser, config: Namespace) -> None:
    """Calibrate, show the grid and write the folder."""
    from pathlib import Path

    from rich.console import Console

    from m2ib_lightning.calibration import CONFIGURATION
    from m2ib_lightning.callbacks.summary import print_written
    from m2ib_lightning.report.calibration import grid_tables, save_grid_picture

    made = parser.instantiate(config)
    console = Console()
    with console.status("Reading the pairs") as status:
        found = calibrate(
            made.data, made.model.backbone, made.image_layers, made.text_layers, made.betas, made.count, made.steps,
            made.noise_samples, made.seed, made.data.batch_size, status.update,
        )  # fmt: skip
    folder = Path(made.output or f"outputs/calibration-{found.weights[:12]}")
    found.save(folder)
    save_grid_picture(found, folder / "grid.png")
    for table in grid_tables(found):
        console.print(table)
    console.print(str(found), highlight=False, markup=False)
    print_written(folder)
    use = f"m2ib predict --config {folder / CONFIGURATION} --data.source PAIRS"
    console.print(f"Use it: {use}", highlight=False, markup=False, soft_wrap=True)
