"""Captum, for the methods that take their gradients from it; imported when one of them runs."""

from __future__ import annotations

from typing import Any


def captum_method(name: str) -> Any:
    """A class of `captum.attr`.

    Raises:
        ValueError: Captum is not installed.
    """
    try:
        from captum import attr
    except ImportError as error:
        raise ValueError(
            f"Expected the package captum for {name} but it is not installed. Remedy: pip install captum."
        ) from error
    return getattr(attr, name)
