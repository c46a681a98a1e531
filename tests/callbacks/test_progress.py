"""What the line in the terminal says while pairs are explained."""

import re

import lightning.pytorch as pl
import pytest

from m2ib_lightning.callbacks.progress import PairProgress
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import GradCAM


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
