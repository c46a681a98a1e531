"""What the words of a command line do, and how a command ends."""

import os
import signal
import sys
import warnings
from types import SimpleNamespace

import pytest

from m2ib_lightning.callbacks.signals import Ended
from m2ib_lightning.cli import main, verbs
from m2ib_lightning.version import __version__

LINES = """\
Verbs:
  fit           Explain pairs and watch every step: pictures, curves, loggers, checkpoints.
  predict       Explain any number of pairs; a run that was stopped goes on where it was.
  test          Explain pairs and score the maps, beside random, centre and uniform ones.
  app           Open a page in the browser: drop a picture, type a caption, see why they match.
  calibrate     Find the layers, betas and priors that suit a model, from 8 to 64 of your pairs"""


@pytest.fixture
def own_verb(monkeypatch):
    """Make a verb `own-verb` that takes --name and calls a function with it."""

    def make(run):
        def add_arguments(parser):
            parser.add_argument("--name", type=str, default="nobody")

        module = SimpleNamespace(add_arguments=add_arguments, run=lambda parser, config: run(config.name))
        monkeypatch.setattr(verbs, "names", lambda: ["own-verb"])
        monkeypatch.setattr(verbs, "load", lambda name: {"own-verb": module}[name])
        monkeypatch.setattr(verbs, "description", lambda name: "Do as one likes.\n\nAnd more of it.")

    return make


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]])
def test_the_help_is_shown_where_nothing_else_is_asked_for(words, capsys):
    main(words)
    said = capsys.readouterr().out
    assert LINES in said and said.endswith(f"  --version   Show the version, {__version__}.\n")


def test_the_version_is_that_of_the_package_and_the_words_are_those_that_were_typed(capsys, monkeypatch):
    main(["--version", "--help"])
    assert capsys.readouterr().out == f"m2ib {__version__}\n"
    monkeypatch.setattr(sys, "argv", ["m2ib", "--version"])
    main()
    assert capsys.readouterr().out == f"m2ib {__version__}\n"


def test_a_verb_gets_the_words_behind_it(own_verb, capsys):
    asked = []
    own_verb(asked.append)
    main(["own-verb", "--name", "anna"])
    main(["own-verb"])
    assert asked == ["anna", "nobody"]
    main(["--help"])
    assert "  own-verb  Do as one likes.\n\nExamples:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["own-verb", "--nam2", "anna"])
    assert "Expected a known option but got --nam2. Remedy: did you mean --name?" in capsys.readouterr().err


def test_options_before_a_verb_are_of_the_command_itself(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--print_confg", "fit"])
    assert left.value.code == 2 and "Expected a verb after" not in capsys.readouterr().err


def ends(own_verb, error: BaseException) -> object:
    """The status that a command leaves with in which something happens."""

    def run(name):
        raise error

    own_verb(run)
    with pytest.raises(SystemExit) as left:
        main(["own-verb"])
    return left.value


def test_a_stopped_command_says_how_to_go_on_and_leaves_with_the_status_of_its_signal(own_verb, capsys):
    said = "Stopped. What was written stays; the same command goes on, or begins where nothing was done.\n"
    assert ends(own_verb, KeyboardInterrupt()).code == 130 and capsys.readouterr().out == said
    assert ends(own_verb, Ended(128 + signal.SIGTERM)).code == 143 and capsys.readouterr().out == said
    told = Ended(143)
    told.told = True
    assert ends(own_verb, told) is told and capsys.readouterr().out == ""


def test_a_fault_of_the_input_is_one_line_and_one_of_the_program_its_traceback(own_verb, capsys, monkeypatch):
    monkeypatch.delenv("M2IB_TRACEBACK", raising=False)
    fault = ValueError("Several things:\n  - Expected a but got b. Remedy: c.")
    assert ends(own_verb, fault).code == 2
    assert capsys.readouterr().err == "m2ib: error: Expected a but got b. Remedy: c.\n"
    for error, asked in ((RuntimeError("no fault of the input"), ""), (fault, "1")):
        monkeypatch.setenv("M2IB_TRACEBACK", asked)
        with pytest.raises(type(error), match=str(error)[:8]):
            ends(own_verb, error)
    assert capsys.readouterr().err == ""


def test_classes_of_the_folder_of_the_call_are_found_and_no_folder_is_there_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    others = [path for path in sys.path if path not in ("", os.getcwd())]
    for before, after in (
        (others, [*others, os.getcwd()]),
        ([*others, os.getcwd()], [*others, os.getcwd()]),
        (["", *others], ["", *others]),
    ):
        monkeypatch.setattr(sys, "path", list(before))
        main(["--version"])
        assert sys.path == after
    capsys.readouterr()


def test_nothing_is_said_of_words_that_were_given_in_python(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python", "notebook"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(SystemExit) as left:
            main(["fit", "--print_config"])
    assert left.value.code == 0 and not [w for w in seen if "intended to run" in str(w.message)]
    assert "class_path: m2ib_lightning.M2IB" in capsys.readouterr().out
