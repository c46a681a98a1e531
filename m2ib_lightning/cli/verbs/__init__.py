"""Verbs of `m2ib` that are no method of the Trainer: one module here for each, of the verb's name with _ for -.

The first line of the module's docstring is its line in `m2ib --help`. It has two functions, and imports what is slow
inside them:

- `add_arguments(parser)` adds its options; `parser.add_lightning_class_args(PairDataModule, "data")` those of a class.
- `run(parser, config)` does the work; `parser.instantiate(config)` makes the objects that the options name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """The verbs that have a module here, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The module of a verb."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def description(name: str) -> str:
    """What a verb does, as its module says; the first line is a sentence of its own."""
    return inspect.getdoc(load(name)) or ""
