"""What the line in the terminal says while pairs are explained."""

import re
from io import StringIO
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest

from m2ib_lightning.callbacks.progress import PairProgress
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import GradCAM
from m2ib_lightning.types import BadPair


def lines(
    capsys: pytest.CaptureFixture[str], verb: str, doing: str = "", show: bool = True, there: int = 1
) -> list[str]:
    """What is left of the lines of a run over four scenes, batches of two; of a prediction some are there already."""
    progress = PairProgress(doing)
    (progress.enable if show else progress.disable)()
    quiet = dict(logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu")
    trainer = pl.Trainer(callbacks=[progress], **quiet)
    data = PairDataModule(scenes=4, batch_size=2)
    if verb == "predict":
        data.skip = {f"scene-00000{i}" for i in range(there)}
    getattr(trainer, verb)(GradCAM("embedded"), data)
    written = re.split(r"[\r\n]", capsys.readouterr().err)
    return [line for line in written if " of " in line and "pairs" in line]


@pytest.mark.parametrize(
    ("verb", "doing", "said"),
    [
        ("predict", "", "Explaining "),
        ("predict", "Reading the maps", "Reading the maps "),
        ("test", "", "Explaining and scoring "),
    ],
)
def test_the_line_says_what_is_done_and_counts_all_pairs(capsys, verb, doing, said):
    found = lines(capsys, verb, doing)
    assert found and all(line.startswith(said) and line.split("%")[0].split()[-1].isdigit() for line in found)
    assert f"{said}100 %" in found[-1] and "4 of 4 pairs" in found[-1]


def test_what_an_earlier_run_did_is_counted_from_the_start(capsys):
    assert "| 1 of 4 pairs" in lines(capsys, "predict")[0]


def test_no_line_is_written_where_none_is_wanted(capsys):
    assert lines(capsys, "predict", show=False) == []


def test_no_line_is_written_where_every_pair_is_there(capsys):
    assert lines(capsys, "predict", there=4) == []


class Terminal(StringIO):
    """Takes what is shown to somebody."""

    def isatty(self) -> bool:
        return True


def begun(verb: str = "predict", world: int = 1, data: PairDataModule | None = None, doing: str = "") -> tuple:
    trainer, progress = SimpleNamespace(datamodule=data, world_size=world), PairProgress(doing)
    getattr(progress, f"on_{verb}_start")(trainer, None)
    return progress, trainer


def scenes(count: int, *there: str) -> PairDataModule:
    data = PairDataModule(scenes=count)
    data.setup("predict")
    data.skip = set(there)
    return data


@pytest.mark.parametrize(("stream", "seconds"), [(StringIO, 10.0), (Terminal, 0.2)])
def test_a_terminal_is_told_five_times_a_second_and_a_file_every_ten(monkeypatch, stream, seconds):
    monkeypatch.setattr("sys.stderr", stream())
    progress, _ = begun(data=scenes(5, "x"))
    line = progress.line
    assert (line.mininterval, line.n, line.total, line.desc, line.smoothing) == (seconds, 1, 5, "Explaining ", 0.1)
    assert line.dynamic_ncols and line.bar_format is not None
    progress.on_predict_end(None, None)
    assert progress.line is None


def test_the_first_process_counts_its_pairs_for_each_and_never_more_than_there_are(monkeypatch):
    monkeypatch.setattr("sys.stderr", StringIO())
    progress, trainer = begun(world=2, data=scenes(7))
    counted = []
    for batch in ("ab", "c", "d"):
        progress.on_predict_batch_end(trainer, None, [], batch, 0)
        counted.append(progress.line.n)
    assert counted == [4, 6, 7] and progress.bad == 0
    progress, trainer = begun("test", 2, scenes(7))
    progress.on_test_batch_end(trainer, None, [], "abc", 0)
    assert progress.line.n == 3 and progress.line.desc == "Explaining and scoring "


def test_bad_pairs_are_counted_at_the_end_of_the_line_which_is_not_written_for_them(monkeypatch):
    monkeypatch.setattr("sys.stderr", shown := StringIO())
    bad = BadPair("a", "", "", "gone")
    progress, trainer = begun(data=scenes(6))
    assert progress.bad == 0
    before = shown.getvalue()
    progress.on_predict_batch_end(trainer, None, ["good"], "a", 0)
    assert progress.line.postfix is None
    progress.on_predict_batch_end(trainer, None, [bad, "good", bad], "abc", 1)
    assert progress.line.postfix == "2 bad" and shown.getvalue() == before
    progress.on_exception(trainer, None, RuntimeError())
    assert progress.line is None and "4 of 6 pairs" in shown.getvalue() and "2 bad" in shown.getvalue()
    progress.on_predict_batch_end(trainer, None, [bad], "a", 2)
    assert progress.bad == 3 and progress.line is None


def test_of_pairs_that_nobody_has_counted_it_is_said_how_many_are_done(monkeypatch):
    monkeypatch.setattr("sys.stderr", shown := StringIO())
    progress, trainer = begun()
    assert (progress.line.total, progress.line.n) == (None, 0)
    progress.on_predict_batch_end(trainer, None, [], "abc", 0)
    assert progress.line.n == 3
    progress.on_predict_end(trainer, None)
    assert "3 pairs" in shown.getvalue() and " of " not in shown.getvalue()


def test_a_line_is_shown_unless_it_is_switched_off_or_all_is_there(monkeypatch):
    monkeypatch.setattr("sys.stderr", StringIO())
    assert begun(data=scenes(2, "x"))[0].line is not None
    assert begun(data=scenes(2, "x", "y"))[0].line is None and begun(data=scenes(2, *"xyz"))[0].line is None
    progress = PairProgress()
    assert progress.enabled
    progress.disable()
    progress.on_test_start(SimpleNamespace(datamodule=None), None)
    assert progress.line is None
    progress.enable()
    progress.on_test_start(SimpleNamespace(datamodule=None), None)
    assert progress.line is not None
