"""`m2ib fit`, `predict` and `test`: one LightningCLI call."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from m2ib_lightning.attribution import MapStyle
from m2ib_lightning.callbacks import (
    OutputSummary,
    PairProgress,
    PredictionWriter,
    ResultWriter,
    ScoreWriter,
    close_loggers,
    quiet_loggers,
    settle_loggers,
)
from m2ib_lightning.callbacks.summary import Drawing
from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.data import PairDataModule, object_names
from m2ib_lightning.data.datamodule import pair_data
from m2ib_lightning.evaluation import Protocol
from m2ib_lightning.methods import M2IB, AttributionMethod
from m2ib_lightning.names import parameters, subclasses
from m2ib_lightning.precision import precision_on
from m2ib_lightning.store.rows import Precision

TRAINER_VERBS = {
    "fit": "Explain pairs and watch every step: pictures, curves, loggers, checkpoints.",
    "predict": "Explain any number of pairs; a run that was stopped goes on where it was.",
    "test": "Explain pairs and score the maps, beside random, centre and uniform ones.",
}
"""What each does, in one sentence."""

TRAINER_DEFAULTS: dict[str, Any] = {
    # One process unless several are asked for; `PairDataModule` shares the pairs out, each to one process.
    "devices": 1,
    "use_distributed_sampler": False,
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


class ConfigOfAnyVerb(ActionConfigFile):
    """Reads a configuration that may be of another verb: what only that one takes is left out."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply what this verb takes of the file."""
        if isinstance(parser, OneLineParser) and os.path.isfile(values):
            given = _plain_yaml(values)
            own, every = _first_words(parser.option_names()), _first_words(chain(*parser.options.values()))
            if isinstance(given, dict):
                values = yaml.safe_dump({key: value for key, value in given.items() if key in own or key not in every})
        super().__call__(parser, cfg, values, option_string)


class EmbeddedHint(Callback):
    """Says what the embedded model knows where it is asked about something else."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say it once the data have been checked, before anything is computed."""
        data = pair_data(trainer)
        if not isinstance(pl_module, AttributionMethod) or data is None:
            return
        if trainer.is_global_zero and pl_module.backbone_name == "embedded" and data.scenes is None:
            print(
                f"The embedded model knows drawings of {len(object_names())} objects "
                f"({', '.join(object_names()[:4])}, ...) and little of photographs.\n"
                "For a real CLIP add: --model.backbone openai/clip-vit-base-patch32"
            )


class M2IBCLI(LightningCLI):
    """`m2ib VERB [--config FILE] [--data.image FILE --data.text TEXT] [--model.backbone NAME] [--output FOLDER]`."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser of the command and of each verb."""
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigOfAnyVerb, help="YAML file with options, of any verb.")
        return parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the arguments of the Trainer's methods that are ours to give or mean nothing here."""
        given = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        # Checkpoints hold the masks of the pairs that they were fitted to: only `fit` can go on from one.
        unused = {"weights_only", "verbose", "ckpt_path"}
        return {"fit": given | {"weights_only"}, "predict": given | unused, "test": given | unused}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Nothing yet: `add_core_arguments_to_parser` adds Lightning's last."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add everything, this package's own first: help and configurations are in this order."""
        assert isinstance(parser, OneLineParser)
        self._add_output(parser)
        parser.add_lightning_class_args(AttributionMethod, "model", subclass_mode=True)
        parser.shown = {"model": M2IB}
        parser.describe(
            "model", f"{', '.join(subclasses(AttributionMethod))}, or FILE.CLASS of yours; M2IB by default."
        )
        parser.add_lightning_class_args(PairDataModule, "data")
        parser.add_phrases()
        parser.set_defaults({"model": {"class_path": "m2ib_lightning.M2IB"}})
        if parser.verb == "fit":
            self._add_stopping(parser)
        super().add_default_arguments_to_parser(parser)
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
        # One learning rate: the method's, which it gives its optimiser.
        parser.link_arguments("model.init_args.lr", "model.init_args.optimizer.init_args.lr")
        # Some loggers ask for a folder; the run's is filled in when it is known.
        parser.link_arguments("output", "trainer.logger.init_args.save_dir", compute_fn=lambda output: output or "")

    def _add_output(self, parser: OneLineParser) -> None:
        """The options of a verb that say what it writes."""
        parser.add_argument(
            "--output", type=str | None, default=None,
            help=f"Folder for everything that is written; outputs/{parser.verb}-DATE-TIME by default.",
        )  # fmt: skip
        parser.add_argument(
            "--gallery", type=bool | None, default=None,
            help="Whether to write a page to look through; by default for up to 1,000 pairs.",
        )  # fmt: skip
        if parser.verb in ("fit", "predict"):
            parser.add_argument(
                "--picture_style", type=MapStyle, default="smooth",
                help="How pictures show maps: smooth between the patches, or each patch with its own value.",
            )  # fmt: skip
            parser.add_argument(
                "--picture_format", type=Literal["png", "pdf", "svg"], default="png", help="What kind of files.",
            )  # fmt: skip
            parser.add_argument(
                "--pictures", type=bool, default=parser.verb == "fit", help="Whether to draw a picture of each pair.",
            )  # fmt: skip
        if parser.verb == "predict":
            parser.add_argument("--maps", type=Precision, default="float32", help="Precision in which maps are stored.")
            parser.add_argument(
                "--part_pairs", type=int, default=512, help="A part is written when so many pairs are finished,",
            )  # fmt: skip
            parser.add_argument(
                "--part_seconds", type=float, default=30.0, help="or so many seconds after the last one.",
            )  # fmt: skip
            parser.add_argument(
                "--retry_errors", type=bool, default=False,
                help="Whether, run again, to try the bad pairs of the folder again.",
            )  # fmt: skip
            parser.add_argument(
                "--retry_changed", type=bool, default=False,
                help="Whether, run again, to explain pairs again whose caption or image is another one now.",
            )  # fmt: skip
        if parser.verb == "test":
            parser.add_measures()

    def _add_stopping(self, parser: OneLineParser) -> None:
        """When a fit ends and what it goes on from; the whole has the patience that each pair has."""
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        # With `keep` a beta moves and the loss may rise: no pair ends by it, and so the whole does not.
        parser.link_arguments(
            ("model.init_args.patience", "model.init_args.keep"),
            "early_stopping.patience",
            compute_fn=lambda patience, keep: patience if keep is None else sys.maxsize,
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "early_stopping.monitor": "loss/total",
                "early_stopping.check_on_train_epoch_end": True,
                # One file, replaced whole at the end of every step: what a killed fit goes on from.
                "checkpoint.filename": "last",
                "checkpoint.enable_version_counter": False,
                "checkpoint.save_on_train_epoch_end": True,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Tell the parsers what the others take, then parse."""
        settings = [f"--model.{name}" for name in parameters(M2IB)]
        parsers = {verb: of for verb, of in self._subcommand_parsers.items() if isinstance(of, OneLineParser)}
        options = {verb: [*of.option_names(), *settings] for verb, of in parsers.items()}
        for each in (parser, *parsers.values()):
            assert isinstance(each, OneLineParser)
            each.options = options
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Take no setting from a checkpoint: `ResultWriter` refuses one that was made with others."""

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
        if config["trainer"]["precision"] is None:
            config["trainer"]["precision"] = precision_on(config["trainer"]["accelerator"])
        settle_loggers(config["trainer"]["logger"], config["output"])
        if verb == "fit" and config["checkpoint"]["dirpath"] is None:
            config["checkpoint"]["dirpath"] = str(Path(config["output"]) / "checkpoints")
        if config["trainer"]["max_epochs"] is None:
            config["trainer"]["max_epochs"] = config["model"]["init_args"].get("steps")

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
        config = self.config[verb]
        made = {"fit": self._fit_callbacks, "predict": self._predict_callbacks, "test": self._test_callbacks}
        self.trainer_defaults["callbacks"] = [
            *made[verb](config),
            EmbeddedHint(),
            OutputSummary(config["output"], config["gallery"]),
        ]
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        quiet_loggers(trainer.loggers)
        if trainer.world_size > 1 and verb != "predict":
            raise ValueError(
                f"Expected one process for `m2ib {verb}` but got {trainer.world_size}. "
                "Remedy: --trainer.devices 1, or `m2ib predict`, which shares pairs among processes."
            )
        return trainer

    def _fit_callbacks(self, config: Any) -> list[Callback]:
        return [ResultWriter(config["output"], _drawing(config), bool(config["ckpt_path"]))]

    def _test_callbacks(self, config: Any) -> list[Callback]:
        metrics = self.config_init["test"]["metrics"]
        # The line first: it ends before the tables are printed.
        return [*_progress(config), ScoreWriter(config["output"], metrics, Protocol(name=config["protocol"]))]

    def _predict_callbacks(self, config: Any) -> list[Callback]:
        said = json.loads(self._parser("predict").dump(config, format="json", skip_none=False, skip_check=True))
        writer = PredictionWriter(
            config["output"],
            _drawing(config),
            {"model": said["model"], "data": said["data"], "precision": said["trainer"]["precision"]},
            config["maps"],
            config["part_pairs"],
            config["part_seconds"],
            config["retry_errors"],
            config["retry_changed"],
        )
        return [writer, *_progress(config)]


def _plain_yaml(path: str) -> Any:
    """What a file says in plain values; a tag that would make an object is refused and not followed."""
    try:
        return yaml.safe_load(Path(path).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        said = " ".join(str(problem).split())[:120]
        raise ValueError(
            f"Expected a configuration as YAML in {path} but got {said}. Remedy: correct it there; `class_path` names "
            "classes."
        ) from problem


def _drawing(config: Any) -> Drawing | bool:
    """How each pair is drawn, or that none is."""
    return config["pictures"] and Drawing(config["picture_style"], config["picture_format"])


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


def _first_words(options: Iterable[str]) -> set[str]:
    """The names before the first dot: the top level of a configuration."""
    return {option.removeprefix("--").partition(".")[0] for option in options}


def run_trainer(args: ArgsType, verb: str = "") -> None:
    """Run a verb of the Trainer.

    Args:
        args: The command line, as `main` takes it.
        verb: That they begin with, for messages.
    """
    cli = M2IBCLI(
        AttributionMethod,
        PairDataModule,
        save_config_callback=SaveConfig,
        seed_everything_default=False,
        parser_class=OneLineParser,
        parser_kwargs={
            "prog": "m2ib",
            "verb": verb,
            **{
                name: {"verb": name, "description": does, "usage": f"m2ib {name} [options]"}
                for name, does in TRAINER_VERBS.items()
            },
        },
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        args=args,
    )
    close_loggers(cli.trainer.loggers)
