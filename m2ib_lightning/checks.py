"""Checks of arguments that many constructors share."""

from __future__ import annotations


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
