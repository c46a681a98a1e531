"""The command line, `m2ib`: one LightningCLI call."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from m2ib_lightning import __version__
from m2ib_lightning.callbacks import PairProgress, PredictionWriter, ResultWriter, close_loggers, settle_loggers
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.errors import explained, fail
from m2ib_lightning.evaluation.evidence import Protocol
from m2ib_lightning.evaluation.score_writer import ScoreWriter
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.store.rows import Precision

DESCRIPTION = "Explains why a CLIP-like model finds an image and a text similar."

TRAINER_DEFAULTS: dict[str, Any] = {
    # One process unless several are asked for; `PairDataModule` shares the pairs out, each to one process.
    "devices": 1,
    "use_distributed_sampler": False,
    "logger": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


EXPECTED_WARNINGS = (
    "does not have many workers",
    "in eval mode at the start",
    "LeafSpec",
    "Checkpoint directory",
    # A folder whose pairs are all there, or all of one process.
    "Total length of",
    "infer the batch indices",
)


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
        parser.add_argument(
            "--maps", type=Precision, default="float32", help="Precision in which `predict` stores maps.",
        )  # fmt: skip
        parser.add_argument(
            "--part_pairs", type=int, default=512, help="`predict` writes a part when so many pairs are finished,",
        )  # fmt: skip
        parser.add_argument(
            "--part_seconds", type=float, default=30.0, help="or so many seconds after the last one.",
        )  # fmt: skip
        parser.add_argument(
            "--retry_errors", type=bool, default=False,
            help="Whether `predict`, run again, tries the bad pairs of the folder again.",
        )  # fmt: skip
        parser.add_argument(
            "--metrics", type=list[PairMetric] | None, default=None,
            help="What `test` measures, for example [PointingGame,TokenAUROC]; what costs little by default.",
        )  # fmt: skip
        parser.add_argument(
            "--protocol", type=Literal["corrected", "as_released"], default="corrected",
            help="How `test` masks inputs; as_released repeats the released scripts, for published numbers.",
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
            config["output"] = default_output(verb)
        if verb == "predict":
            config["return_predictions"] = False  # they are written; kept, they would fill the memory
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
        verb = self.config["subcommand"]
        self.trainer_defaults["callbacks"] = getattr(self, f"_{verb}_callbacks")(self.config[verb])
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        if trainer.world_size > 1 and verb != "predict":
            raise ValueError(
                f"Expected one process for `m2ib {verb}` but got {trainer.world_size}. "
                "Remedy: --trainer.devices 1, or `m2ib predict`, which shares pairs among processes."
            )
        return trainer

    def _fit_callbacks(self, config: Any) -> list[Callback]:
        return [ResultWriter(config["output"], config["pictures"] is not False, bool(config["ckpt_path"]))]

    def _test_callbacks(self, config: Any) -> list[Callback]:
        metrics = self.config_init["test"]["metrics"]
        # The line first: it ends before the tables are printed.
        return [*_progress(config), ScoreWriter(config["output"], metrics, Protocol(name=config["protocol"]))]

    def _predict_callbacks(self, config: Any) -> list[Callback]:
        said = json.loads(self._parser("predict").dump(config, format="json", skip_none=False, skip_check=True))
        writer = PredictionWriter(
            config["output"],
            config["pictures"] is True,
            {"model": said["model"], "data": said["data"], "precision": said["trainer"]["precision"]},
            config["maps"],
            config["part_pairs"],
            config["part_seconds"],
            config["retry_errors"],
        )
        return [writer, *_progress(config)]


def _progress(config: Any) -> list[Callback]:
    return [] if config["trainer"]["enable_progress_bar"] is False else [PairProgress()]


def default_output(verb: str) -> str:
    """A folder named by the time; that of the first process in the others that it starts.

    Raises:
        ValueError: Something else has started several processes, which cannot know each other's folder.
    """
    if int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1:
        if "M2IB_OUTPUT" not in os.environ:
            raise ValueError("Expected --output where processes share the work but got none. Remedy: name one folder.")
        return os.environ["M2IB_OUTPUT"]
    os.environ["M2IB_OUTPUT"] = str(Path("outputs") / f"{verb}-{datetime.now():%Y%m%d-%H%M%S}")
    return os.environ["M2IB_OUTPUT"]


def main(args: ArgsType = None) -> None:
    """Run `m2ib`.

    Args:
        args: The command line as a list, or a configuration as a dictionary; what was typed by default.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in EXPECTED_WARNINGS:
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
    except Exception as error:
        message = explained(error)
        if message is None or os.environ.get("M2IB_TRACEBACK"):
            raise
        fail(message)


def _is_scenes(data: Any) -> bool:
    return not (data.get("image") or data.get("text") or data.get("source") or data.get("dataset"))


def _say_what_embedded_knows() -> None:
    from m2ib_lightning.data.scenes import object_names

    print(
        f"The embedded model knows drawings of {len(object_names())} objects ({', '.join(object_names()[:4])}, ...) "
        "and little of photographs.\nFor a real CLIP add: --model.backbone openai/clip-vit-base-patch32"
    )
