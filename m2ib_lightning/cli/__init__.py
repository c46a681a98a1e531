"""The command line, `m2ib`: three verbs of Lightning's Trainer, and one module in `verbs` for each other one."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings

from lightning.pytorch.cli import ArgsType

from m2ib_lightning.callbacks.signals import Ended, ending_once
from m2ib_lightning.cli import verbs
from m2ib_lightning.cli.messages import one_line, unknown_verb
from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.cli.run import TRAINER_VERBS, run_trainer
from m2ib_lightning.errors import explained, fail
from m2ib_lightning.printable import printable
from m2ib_lightning.version import __version__

__all__ = ["main"]

HELP = """\
Which regions of an image and which words of a text make a CLIP-like model find them similar.

Usage: m2ib VERB [options]; m2ib VERB --help shows the options.

Verbs:
{verbs}

Examples:
  m2ib fit --data.image cat.jpg --data.text "a cat on a sofa" --model.backbone openai/clip-vit-base-patch32
  m2ib predict --data.source pairs.csv --output runs/pairs
  m2ib test --model GradCAM --data.scenes 20

Options:
  -h, --help  Show this.
  --version   Show the version, {version}."""

EXPECTED_WARNINGS = (
    "does not have many workers",
    "in eval mode at the start",
    "LeafSpec",
    "Checkpoint directory",
    # A folder whose pairs are all there, or all of one process.
    "Total length of",
    "infer the batch indices",
    # A batch of pairs that a reader is not trained on.
    "training_step. returned .None",
)


def main(args: ArgsType = None) -> None:
    """Run the command `m2ib`.

    Args:
        args: The command line as a list, or a configuration as a dictionary; what was typed by default.
    """
    _quiet(args)
    # `class_path: my_terms.Mine` is a file in the folder of the call, also where `m2ib` is a script of its own.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    words = sys.argv[1:] if args is None else args
    try:
        with ending_once():
            if isinstance(words, list):
                _run_words(words, args)
            else:
                run_trainer(args)
    except (KeyboardInterrupt, Ended) as end:
        if isinstance(end, Ended) and end.told:
            raise
        print("Stopped. What was written stays; the same command goes on, or begins where nothing was done.")
        sys.exit(end.code if isinstance(end, Ended) else 128 + signal.SIGINT)
    except Exception as error:
        message = explained(error)
        if message is None or os.environ.get("M2IB_TRACEBACK"):
            raise
        fail(one_line(message))


def _run_words(words: list[str], args: ArgsType) -> None:
    """Run what a command line says."""
    first = words[0] if words else "--help"
    if first in ("-h", "--help", "help"):
        print(help_text())
    elif first == "--version":
        print(f"m2ib {__version__}")
    elif first in verbs.names():
        _run_verb(first, words[1:])
    elif first.startswith("-") or first in TRAINER_VERBS:
        run_trainer(args, first)
    else:
        fail(unknown_verb(first, [*TRAINER_VERBS, *verbs.names()]))


def _run_verb(name: str, words: list[str]) -> None:
    """Run a verb of `verbs`."""
    verb = verbs.load(name)
    parser = OneLineParser(prog=f"m2ib {name}", verb=name, description=verbs.description(name))
    verb.add_arguments(parser)
    verb.run(parser, parser.parse_args(words))


def help_text() -> str:
    """What `m2ib --help` prints."""
    lines = TRAINER_VERBS | {name: verbs.description(name).partition("\n")[0] for name in verbs.names()}
    width = max(map(len, lines))
    return HELP.format(
        verbs="\n".join(f"  {name:{width}}  {does}" for name, does in lines.items()), version=__version__
    )


def _quiet(args: ArgsType) -> None:
    """Say nothing of what is meant to be so."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_: f"m2ib: warning: {printable(str(message))}\n"  # not its line of code
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", f".*{expected}.*")
    if args is not None:
        # Lightning warns of a command line beside `args`, which a test runner or notebook always has.
        warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
