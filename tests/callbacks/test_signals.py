"""The first signal ends a command by an exception; what is done after it is not interrupted by a second."""

import os
import signal
import threading

import pytest

from m2ib_lightning.callbacks.signals import ending_once, known_signals


@pytest.fixture(autouse=True)
def handlers():
    given = {number: signal.getsignal(number) for number in known_signals()}
    # Whoever started the tests may have had some ignored.
    for number in given:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    before = {number: signal.getsignal(number) for number in given}
    yield before
    for number, handler in given.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [("SIGINT", KeyboardInterrupt, None), ("SIGTERM", SystemExit, 143), ("SIGHUP", SystemExit, 129)],
)
def test_a_signal_raises_once(name, kind, status):
    finished = False
    with pytest.raises(kind) as ended, ending_once():
        try:
            os.kill(os.getpid(), getattr(signal, name))
        finally:
            for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), again)
            finished = True
    assert finished and getattr(ended.value, "code", None) == status
    os.kill(os.getpid(), signal.SIGTERM)  # while the program ends


def test_nothing_is_changed_where_no_signal_came(handlers):
    with ending_once():
        assert all(signal.getsignal(number) is not handler for number, handler in handlers.items())
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with ending_once():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_thread_is_left_as_it_is():
    def run() -> None:
        with ending_once():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
