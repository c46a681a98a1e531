"""The command line, `m2ib`: one LightningCLI call."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from m2ib_lightning.callbacks import ResultWriter
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import AttributionMethod

TRAINER_DEFAULTS: dict[str, Any] = {
    # One process: several would average the gradients of different pairs' masks under `fit`.
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


class SaveConfig(SaveConfigCallback):
    """Writes the full resolved configuration to the output folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`, once."""
        if trainer.is_global_zero and not self.already_saved:
            folder = Path(self.config.output)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, str(folder / "config.yaml"), skip_none=False, overwrite=True, multifile=False)
            self.already_saved = True


class M2IBCLI(LightningCLI):
    """`m2ib VERB [--config FILE] [--data.image FILE --data.text TEXT] [--model.backbone NAME] [--output FOLDER]`."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the arguments of the Trainer's methods that are ours to give."""
        given = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return {"fit": given, "predict": given}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what the package brings."""
        parser.add_argument(
            "--output", type=str | None, default=None,
            help="Folder for everything that is written; outputs/VERB-DATE-TIME by default.",
        )  # fmt: skip
        parser.add_argument(
            "--pictures", type=bool | None, default=None,
            help="Whether to draw each pair; by default `fit` does and `predict` does not.",
        )  # fmt: skip
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "model": {"class_path": "m2ib_lightning.M2IB"},
                "early_stopping.monitor": "loss/total",
                "early_stopping.patience": 3,
                "early_stopping.check_on_train_epoch_end": True,
            }
        )

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on other arguments."""
        verb = self.config["subcommand"]
        config = self.config[verb]
        if config["output"] is None:
            config["output"] = str(Path("outputs") / f"{verb}-{datetime.now():%Y%m%d-%H%M%S}")
        arguments = config["model"]["init_args"]
        if config["trainer"]["max_epochs"] is None:
            config["trainer"]["max_epochs"] = arguments.get("steps")
        if arguments.get("backbone") == "embedded" and not _is_scenes(config["data"]):
            _say_what_embedded_knows()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what writes the results."""
        trainer = super().instantiate_trainer(**kwargs)
        config = self.config[self.config["subcommand"]]
        trainer.callbacks.append(ResultWriter(config["output"], config["pictures"]))
        return trainer


def main(args: ArgsType = None) -> None:
    """Run `m2ib`.

    Args:
        args: The command line as a list, or a configuration as a dictionary; what was typed by default.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for expected in (".*does not have many workers.*", ".*in eval mode at the start of training.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", expected)
    try:
        M2IBCLI(
            AttributionMethod,
            PairDataModule,
            save_config_callback=SaveConfig,
            seed_everything_default=False,
            trainer_defaults=TRAINER_DEFAULTS,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "m2ib", "description": "Explains why a CLIP-like model finds an image and a text similar."},
            args=args,
        )
    except ValueError as error:
        if os.environ.get("M2IB_TRACEBACK"):
            raise
        print(f"m2ib: error: {error}", file=sys.stderr)
        sys.exit(2)


def _is_scenes(data: Any) -> bool:
    return not (data.get("image") or data.get("text") or data.get("source"))


def _say_what_embedded_knows() -> None:
    from m2ib_lightning.data.scenes import object_names

    print(
        f"The embedded model knows drawings of {len(object_names())} objects ({', '.join(object_names()[:4])}, ...) and "
        "little of photographs.\nFor a real CLIP add: --model.backbone openai/clip-vit-base-patch32"
    )
