"""Train a network that reads masks off a pair in about one step, over your pairs and without ground truth.

Maps then cost a step instead of a fit: m2ib predict --config FOLDER/config.yaml --data.source pairs.csv. The same
command goes on where a stopped one was.
"""

from __future__ import annotations

from typing import Any

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from m2ib_lightning.cli.run import TRAINER_DEFAULTS
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import M2IB

SCENES, SCENE_SEED = 1000, 300_000
"""What it is trained on where no pairs are given."""

OWN: dict[str, Any] = {"max_epochs": 6, "gradient_clip_val": 1.0, "enable_checkpointing": False}
"""Of the Trainer; checkpoints are written by `ReaderWriter`."""


def add_arguments(parser: LightningArgumentParser) -> None:
    """Add the fit that is to be read, the network, the pairs and the Trainer."""
    from m2ib_lightning.methods.reader_training import ReaderTraining

    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with options.")
    parser.add_argument(
        "--output", type=str | None, default=None, help="Folder that is written; outputs/reader-HASH by default."
    )
    parser.add_class_arguments(M2IB, "model", skip={"reader", "optimizer"})
    parser.add_class_arguments(ReaderTraining, "network", skip={"method", "folder"}, instantiate=False)
    parser.add_lightning_class_args(PairDataModule, "data")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in (TRAINER_DEFAULTS | OWN).items()})


def run(parser: LightningArgumentParser, config: Namespace) -> None:
    """Train, write the folder and say how well the maps agree with those of the fit."""
    import json
    from pathlib import Path

    import yaml

    from m2ib_lightning.callbacks.reader_writer import ReaderWriter
    from m2ib_lightning.callbacks.summary import print_written
    from m2ib_lightning.files import replacing
    from m2ib_lightning.methods.reader import CONFIGURATION
    from m2ib_lightning.methods.reader_training import ReaderTraining, compare_with_fit
    from m2ib_lightning.precision import precision_on

    data = config.data
    if not any((data.image, data.source, data.dataset, data.scenes)):
        data.scenes, data.scene_seed = SCENES, SCENE_SEED
    config.trainer.precision = config.trainer.precision or precision_on(config.trainer.accelerator)
    made = parser.instantiate(config)
    made.data.setup("predict")  # what is wrong with the pairs is said before a model is loaded
    if made.data.count is not None and made.data.count <= made.data.batch_size:
        raise ValueError(
            f"Expected pairs beside the first {made.data.batch_size}, which are held out, but got {made.data.count}. "
            "Remedy: more pairs, or a smaller --data.batch_size."
        )
    folder = Path(made.output or f"outputs/reader-{made.model.prepare().weight_hash[:12]}").absolute()
    training = ReaderTraining(made.model, folder / "fits", **config.network.as_dict())
    folder.mkdir(parents=True, exist_ok=True)
    arguments = json.loads(parser.dump(config, format="json"))["model"] | {"reader": str(folder), "steps": 0}
    with replacing(folder / CONFIGURATION) as unfinished:
        method = {"class_path": "m2ib_lightning.M2IB", "init_args": arguments}
        unfinished.write_text(yaml.safe_dump({"model": method}, sort_keys=False), "utf-8")
    batches = made.data.predict_dataloader()
    held_out = training.hold_out(next(iter(batches)))
    writer, options = ReaderWriter(folder), made.trainer.as_dict()
    trainer = Trainer(**options | {"callbacks": [*(options["callbacks"] or []), writer]})
    trainer.fit(training, batches, ckpt_path=writer.last)
    print(compare_with_fit(training, held_out))
    print_written(folder)
    print(f"Use it: m2ib predict --config {folder / CONFIGURATION} --data.source PAIRS")
