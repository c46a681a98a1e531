"""The command line, `m2ib`: one LightningCLI call."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from m2ib_lightning import __version__
from m2ib_lightning.callbacks import ResultWriter, close_loggers, settle_loggers
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.evaluation.score_writer import ScoreWriter
from m2ib_lightning.methods import AttributionMethod

DESCRIPTION = "Explains why a CLIP-like model finds an image and a text similar."

TRAINER_DEFAULTS: dict[str, Any] = {
    # One process: several would average the gradients of different pairs' masks under `fit`.
    "devices": 1,
    "logger": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


class SaveConfig(SaveConfigCallback):
    """Writes the full resolved configuration to the output folder and to the loggers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`, once, and log the same."""
        if trainer.is_global_zero and not self.already_saved:
            folder = Path(self.config.output)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, str(folder / "config.yaml"), overwrite=True, multifile=False)
            for logger in trainer.loggers:
                logger.log_hyperparams(yaml.safe_load((folder / "config.yaml").read_text()))
            self.already_saved = True


class OneLineParser(LightningArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line and leave with 2, unless this is one of several ways that are tried."""
        if not self.exit_on_error:
            super().error(message, ex)
        fail(message)


class M2IBCLI(LightningCLI):
    """`m2ib VERB [--config FILE] [--data.image FILE --data.text TEXT] [--model.backbone NAME] [--output FOLDER]`."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the arguments of the Trainer's methods that are ours to give."""
        given = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return {"fit": given, "predict": given, "test": given}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser of the command and of each verb."""
        parser = super().init_parser(**kwargs)
        parser.__class__ = OneLineParser
        return parser

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
        # Some loggers ask for a folder; the run's is filled in when it is known.
        parser.link_arguments("output", "trainer.logger.init_args.save_dir", compute_fn=lambda output: output or "")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "model": {"class_path": "m2ib_lightning.M2IB"},
                "early_stopping.monitor": "loss/total",
                "early_stopping.patience": 3,
                "early_stopping.check_on_train_epoch_end": True,
                # One file, replaced whole at the end of every step: what a killed fit goes on from.
                "checkpoint.filename": "last",
                "checkpoint.enable_version_counter": False,
                "checkpoint.save_on_train_epoch_end": True,
            }
        )

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on other arguments."""
        verb = self.config["subcommand"]
        config = self.config[verb]
        if config["output"] is None:
            config["output"] = str(Path("outputs") / f"{verb}-{datetime.now():%Y%m%d-%H%M%S}")
        if config["trainer"]["default_root_dir"] is None:
            config["trainer"]["default_root_dir"] = config["output"]
        settle_loggers(config["trainer"]["logger"], config["output"])
        if config["checkpoint"]["dirpath"] is None:
            config["checkpoint"]["dirpath"] = str(Path(config["output"]) / "checkpoints")
        arguments = config["model"]["init_args"]
        if config["trainer"]["max_epochs"] is None:
            config["trainer"]["max_epochs"] = arguments.get("steps")
        if arguments.get("backbone") == "embedded" and not _is_scenes(config["data"]):
            _say_what_embedded_knows()

    def before_fit(self) -> None:
        """Refuse to fit what has nothing to fit."""
        if type(self.model).training_step is LightningModule.training_step:
            raise ValueError(
                f"Expected a method that is fitted but got {type(self.model).__name__}. "
                "Remedy: `m2ib predict` computes its maps."
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what writes the results."""
        config = self.config[self.config["subcommand"]]
        resume = bool(config.get("ckpt_path"))
        self.trainer_defaults["callbacks"] = [ResultWriter(config["output"], config["pictures"], resume)]
        if self.config["subcommand"] == "test":
            self.trainer_defaults["callbacks"] = [ScoreWriter(config["output"])]
        return super().instantiate_trainer(**kwargs)


def main(args: ArgsType = None) -> None:
    """Run `m2ib`.

    Args:
        args: The command line as a list, or a configuration as a dictionary; what was typed by default.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for expected in ("does not have many workers", "in eval mode at the start", "LeafSpec", "Checkpoint directory"):
        warnings.filterwarnings("ignore", f".*{expected}.*")
    if args is not None:
        # Lightning warns of a command line beside `args`, which a test runner or notebook always has.
        warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    # `class_path: my_terms.Mine` is a file in the folder of the call, also where `m2ib` is a script of its own.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        cli = M2IBCLI(
            AttributionMethod,
            PairDataModule,
            save_config_callback=SaveConfig,
            seed_everything_default=False,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "m2ib", "description": DESCRIPTION, "version": __version__},
            args=args,
        )
        close_loggers(cli.trainer.loggers)
    except ValueError as error:
        if os.environ.get("M2IB_TRACEBACK"):
            raise
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the command with one line on standard error and the exit status 2."""
    print(f"m2ib: error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)


def one_line(message: str) -> str:
    r"""What matters of an error message: ours as it is, jsonargparse's tree of reasons in our words.

    >>> one_line("Errors:\n  - Expected `steps` to be at least 1 but got 0. Remedy: choose more.\n  - Expected None")
    'Expected `steps` to be at least 1 but got 0. Remedy: choose more.'
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    ours = [line for line in lines if "Remedy:" in line]
    if ours:
        return ours[0]
    name = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    unknown = re.search(r"Option '([^']+)' is not accepted", message)
    if unknown:
        return f"Expected a known argument but got `{name}.{unknown[1]}`. Remedy: choose one that --help shows."
    kinds, value = re.findall(r"Subtypes: \[(.*)\]", message), re.search(r"Given value: (.*)", message)
    nested = value and re.match(r"NestedArg\(key='(\w+)', val='?(.*?)'?\)", value[1])
    if name and nested:
        return f"Expected something else as `{name}.{nested[1]}` than {nested[2]}. Remedy: see --help."
    if name and kinds and value:
        wanted = re.sub(r"typing\.|<class '([\w.]+)'>", r"\1", kinds[-1]).replace("NoneType", "null")
        return f"Expected `{name}` to be one of {wanted} but got {value[1]}. Remedy: see --help."
    return " ".join(lines)


def _is_scenes(data: Any) -> bool:
    return not (data.get("image") or data.get("text") or data.get("source"))


def _say_what_embedded_knows() -> None:
    from m2ib_lightning.data.scenes import object_names

    print(
        f"The embedded model knows drawings of {len(object_names())} objects ({', '.join(object_names()[:4])}, ...) "
        "and little of photographs.\nFor a real CLIP add: --model.backbone openai/clip-vit-base-patch32"
    )
