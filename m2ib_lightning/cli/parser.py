"""The parser of `m2ib` and of each verb: errors are one line, and help begins with what is this package's own."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from m2ib_lightning.cli.messages import one_line
from m2ib_lightning.errors import fail

if TYPE_CHECKING:
    from m2ib_lightning.methods import M2IB

TITLES = {
    "model": "The method",
    "data": "The pairs",
    "early_stopping": "When a fit stops (Lightning's EarlyStopping)",
    "checkpoint": "What a fit goes on from (Lightning's ModelCheckpoint)",
    "trainer": "Lightning's Trainer",
    "ckpt_path": "Going on",
}
"""Of the groups of options in the help, by the first word of their last option."""

HIDDEN = ("return_predictions", "seed_everything")
"""Options that Lightning brings and that change nothing here: methods have seeds of their own."""


class OneLineParser(LightningArgumentParser):
    """Says what is wrong with the arguments in one line.

    Args:
        args: What jsonargparse's parser takes, as are further keywords.
        verb: The word after `m2ib`, "" if it is not known.

    Attributes:
        options: The options of each verb, for messages that say which one was meant.
        shown: A class by the key that takes it; help lists its arguments, else on a page of their own.
    """

    def __init__(self, *args: Any, verb: str = "", **keywords: Any) -> None:
        self.verb = verb
        self.options: dict[str, list[str]] = {}
        self.shown: dict[str, type] = {}
        super().__init__(*args, **keywords)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line and leave with 2, unless this is one of several ways that are tried."""
        if not self.exit_on_error:
            super().error(message, ex)
        fail(one_line(message, self.verb, self.options or {self.verb: self.option_names()}))

    def option_names(self) -> list[str]:
        """Every option with its hyphens."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    def add_phrases(self) -> None:
        """Let `data.phrases` be said in one word; call it where the pairs have been added as "data"."""
        (action,) = (action for action in self._actions if action.dest == "data.phrases")
        action.option_strings = ["--phrases", *action.option_strings]
        self._option_string_actions["--phrases"] = action

    def add_measures(self) -> None:
        """Add the options that say what is measured, and how inputs are masked for it."""
        from m2ib_lightning.metrics import PairMetric

        self.add_argument(
            "--metrics", type=list[PairMetric] | None, default=None,
            help="What is measured, for example [PointingGame,TokenAUROC]; what costs little by default.",
        )  # fmt: skip
        self.add_argument(
            "--protocol", type=Literal["corrected", "as_released"], default="corrected",
            help="How inputs are masked; as_released repeats the released scripts, for published numbers.",
        )  # fmt: skip

    def make_m2ib(self, config: Namespace, **changes: Any) -> M2IB:
        """The method that is configured as "model", with some of its arguments changed.

        Raises:
            ValueError: It is another one than M2IB.
        """
        from m2ib_lightning.methods import M2IB

        changed = config.clone()
        changed.model.init_args.update(Namespace(**changes))
        method = self.instantiate(changed).model
        if not isinstance(method, M2IB):
            raise ValueError(f"Expected M2IB as the method but got {type(method).__name__}. Remedy: leave --model out.")
        return method

    def describe(self, name: str, help: str) -> None:
        """Let the help say this of an argument and nothing more, where jsonargparse lists modules and defaults."""
        for action in self._actions:
            if action.dest == name:
                action.help, action.metavar = help, "NAME"
                action._jsonargparse_preexpanded_help = True  # type: ignore[attr-defined]

    def format_help(self, *args: Any, **keywords: Any) -> str:
        """The help, with the arguments of the classes in `shown` behind those that choose the class."""
        groups: list[Any] = self._action_groups  # type: ignore[assignment]  # a list, typed as less
        kept = list(groups)
        for group in kept:
            actions = group._group_actions
            if actions and group.title != "Linked arguments":
                group.title = TITLES.get(actions[-1].dest.partition(".")[0], group.title)
            for action in actions:
                if action.dest in HIDDEN:
                    action.help = SUPPRESS
        for key, kind in self.shown.items():
            place = next(i for i, g in enumerate(kept) if any(a.dest == key for a in g._group_actions))
            groups.insert(place + 1, _arguments(key, kind))
        try:
            return super().format_help(*args, **keywords)
        finally:
            groups[:] = kept


def _arguments(key: str, kind: type) -> Any:
    """The arguments of a class as a group of options."""
    aside = LightningArgumentParser()
    aside.add_class_arguments(kind, key)
    group: Any = aside._action_groups[-1]
    group._group_actions = [a for a in group._group_actions if a.dest != key and not a.dest.endswith(".help")]
    group.title = f"Settings of {kind.__name__}; those of another: --{key}.help NAME"
    return group
