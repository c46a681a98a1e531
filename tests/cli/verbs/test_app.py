"""`m2ib app`, with a server that is none."""

import io
import sys
from types import SimpleNamespace

import pytest

from m2ib_lightning.cli import main
from m2ib_lightning.cli.verbs import app as verb
from m2ib_lightning.methods import M2IB

pytest.importorskip("gradio", reason='gradio is not installed: pip install "m2ib_lightning[app]"')


@pytest.fixture
def served(monkeypatch):
    """What was served with which options; Ctrl-C comes after the third second."""
    from m2ib_lightning.app import serving

    found = SimpleNamespace(asked=[], slept=[], closed=[], share_url=None)

    def serve(explainer, *options):
        found.asked.append((explainer, *options))
        return SimpleNamespace(
            local_url="http://here", share_url=found.share_url, close=lambda verbose: found.closed.append(verbose)
        )

    def sleep(seconds):
        found.slept.append(seconds)
        if len(found.slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.setattr(verb, "time", SimpleNamespace(sleep=sleep))
    return found


def test_the_page_is_served_to_this_machine_and_opened_until_the_command_is_stopped(served, capsys):
    main(["app"])
    assert served.asked[0][1:] == (None, True, False) and len(served.slept) == 3 and served.closed == [False]
    assert max(served.slept) <= 1.5  # Ctrl-C is heard within about a second
    assert capsys.readouterr().out == "http://here  (Ctrl-C stops it)\n"


def test_the_addresses_are_in_a_pipe_before_the_command_waits(served, monkeypatch):
    served.share_url, raw, there = "http://everywhere", io.BytesIO(), []
    wait = verb.time.sleep

    def sleep(seconds):
        there.append(raw.getvalue().decode())
        wait(seconds)

    monkeypatch.setattr(verb, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    main(["app"])
    assert there[0].splitlines() == ["http://here  (Ctrl-C stops it)", "http://everywhere"]


def test_options_are_passed_on_and_a_public_address_is_said(served, capsys):
    served.share_url = "http://everywhere"
    main(["app", "--port=1234", "--open=false", "--share=true"])
    assert served.asked[0][1:] == (1234, False, True)
    assert capsys.readouterr().out == "http://here  (Ctrl-C stops it)\nhttp://everywhere\n"


def test_the_model_of_a_runs_configuration_is_taken_and_nothing_else(served, tmp_path, monkeypatch):
    made = []

    class Explainer:
        def __init__(self, make):
            made.append(make())

    monkeypatch.setattr("m2ib_lightning.app.explaining.Explainer", Explainer)
    path = tmp_path / "run.yaml"
    path.write_text(
        "port: 99\ndata:\n  scenes: 3\nmodel:\n  class_path: m2ib_lightning.M2IB\n  init_args:\n    steps: 7\n"
    )
    main(["app", f"--config={path}"])
    served.slept.clear()
    path.write_text("")
    main(["app", f"--config={path}"])
    assert [type(method) for method in made] == [M2IB, M2IB] and [method.steps for method in made] == [7, 10]
    assert served.asked[0][1] is None


def test_without_gradio_the_command_that_installs_it_is_named(monkeypatch, capsys):
    monkeypatch.setattr(verb.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as left:
        main(["app"])
    assert left.value.code == 2
    said = 'Expected gradio but it is not installed. Remedy: pip install "m2ib_lightning[app]".'
    assert said in capsys.readouterr().err
