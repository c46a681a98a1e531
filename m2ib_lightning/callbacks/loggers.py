"""What a logger from the command line or a YAML file is given: the run's folder, and W&B without an account."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, WandbLogger


def settle_loggers(loggers: Any, folder: str) -> None:
    """Complete the configuration of a Trainer's loggers, in place.

    Those that name no folder of their own write to the run's. W&B runs offline where nobody is logged in and
    `WANDB_MODE` says nothing else.

    Args:
        loggers: The Trainer's argument as parsed: one logger, several, true, false or null.
        folder: The folder of the run.
    """
    for logger in loggers if isinstance(loggers, list | tuple) else [loggers]:
        if not isinstance(logger, Namespace) or "init_args" not in logger:
            continue
        arguments = logger.init_args
        if arguments.get("save_dir", folder) in (None, "", "."):
            arguments["save_dir"] = folder
        if logger.class_path.endswith("WandbLogger"):
            # W&B looks for a git repository around the folder, and warns where the folder is not there yet.
            Path(arguments["save_dir"]).mkdir(parents=True, exist_ok=True)
            if not (arguments["offline"] or "WANDB_MODE" in os.environ):
                _offline_unless_logged_in()


def quiet_loggers(loggers: Iterable[Logger]) -> None:
    """Leave out what Lightning passes on and W&B only warns of: `anonymous`, where nobody asked for it.

    Args:
        loggers: The Trainer's, before they are used.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous", ...) is None:
            del logger._wandb_init["anonymous"]


def close_loggers(loggers: Iterable[Logger]) -> None:
    """End what a logger would leave open for a next fit; W&B's run otherwise ends with the process."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _offline_unless_logged_in() -> None:
    """Look for W&B's credentials, in the environment and from `wandb login`; nobody is asked, nothing is sent."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        # For this process, and not in the saved configuration, which may be run again by who is logged in.
        wandb.setup(wandb.Settings(mode="offline"))
