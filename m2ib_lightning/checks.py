"""Checks of arguments that many constructors share."""

from __future__ import annotations

from collections.abc import Sequence

from m2ib_lightning.names import meant


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuse a number that is too small, nan among them.

    Args:
        name: What the argument is called.
        value: The number that was given.
        least: The smallest value that is allowed.

    Raises:
        ValueError: The number is smaller.

    >>> check_at_least("steps", 0, 1)
    Traceback (most recent call last):
    ValueError: Expected `steps` to be at least 1 but got 0. Remedy: choose a larger one.
    """
    if not value >= least:
        raise ValueError(f"Expected `{name}` to be at least {least} but got {value}. Remedy: choose a larger one.")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is not above `low` and below `high`, nan among them.

    Args:
        name: What the argument is called.
        value: The number that was given.
        low: What it must be above.
        high: What it must be below.

    Raises:
        ValueError: The number is not between them.

    >>> check_between("keep", 1.0, 0, 1)
    Traceback (most recent call last):
    ValueError: Expected `keep` to be above 0 and below 1 but got 1.0. Remedy: choose one between.
    """
    if not low < value < high:
        raise ValueError(
            f"Expected `{name}` to be above {low} and below {high} but got {value}. Remedy: choose one between."
        )


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that is none of those that are known.

    Args:
        name: What the argument is called.
        value: What was given for it.
        known: The words that it may be.

    Raises:
        ValueError: It is none of them.

    >>> check_choice("style", "smoth", ("smooth", "patch"))
    Traceback (most recent call last):
    ValueError: Expected `style` to be one of 'smooth', 'patch' but got 'smoth'. Remedy: did you mean smooth?
    """
    if value not in known:
        raise ValueError(
            f"Expected `{name}` to be one of {', '.join(map(repr, known))} but got {value!r}. "
            f"Remedy: {meant(str(value), known, 'choose one of these.')}"
        )
