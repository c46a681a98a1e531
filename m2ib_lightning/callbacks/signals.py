"""Ctrl-C, SIGTERM and SIGHUP end a command once, in order, with what is done written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""The signals that ask a program to end; Windows has no SIGHUP."""


class Ended(SystemExit):
    """A signal asked the program to end.

    Attributes:
        told: Whether somebody has said how to go on.
    """

    told = False


@contextmanager
def ending_once() -> Iterator[None]:
    """While in it, the first of these signals raises: `KeyboardInterrupt` for Ctrl-C, else `Ended`.

    What is done is then written as after any exception, which a second signal does not interrupt; kill -9 does. A
    signal that is ignored (nohup) stays so. Does nothing in a thread, where Python has no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = False

    def once(number: int, _: Any) -> None:
        nonlocal ending
        if ending:
            return
        ending = True
        raise KeyboardInterrupt if number == signal.SIGINT else Ended(128 + number)

    before = {number: take_over(number, once) for number in known_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if not ending and handler is not None:
                signal.signal(number, handler)


def known_signals() -> list[signal.Signals]:
    """Those of `NAMES` that this system has."""
    return [signal.Signals[name] for name in NAMES if name in signal.Signals.__members__]


def take_over(number: signal.Signals, handler: Callable[[int, Any], None]) -> Any:
    """Have a signal handled, unless it is ignored; gives the handler of before, None where nothing was changed."""
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        return None
    signal.signal(number, handler)
    return before
