"""A fit that is interrupted or killed goes on from its last step."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main

COMMAND = ["fit", "--data.scenes=2", "--model.noise_samples=2", "--model.steps=30", "--model.tolerance=null"]
COMMAND += ["--model.patience=30", "--pictures=false", "--trainer.enable_progress_bar=false"]


class Interrupt(Callback):
    """Presses Ctrl-C at the start of an epoch, or kills the process without warning when its step is done."""

    def __init__(self, epoch: int, kill: bool = False) -> None:
        self.epoch, self.kill = epoch, kill

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == self.epoch and not self.kill:
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer, pl_module, *step) -> None:
        if trainer.current_epoch == self.epoch and self.kill:
            os.kill(os.getpid(), signal.SIGKILL)


def interrupt(epoch: int, kill: bool = False) -> str:
    """The argument of the command."""
    arguments = {"epoch": epoch, "kill": kill}
    return "--trainer.callbacks=" + json.dumps({"class_path": "tests.test_resume.Interrupt", "init_args": arguments})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    main([*COMMAND, f"--output={folder}"])
    return folder


def resume(folder: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    checkpoint = [f"--ckpt_path={last}"] if last.is_file() else []
    main([*COMMAND, f"--output={folder}", *checkpoint])


def assert_bit_equal(a: Path, b: Path) -> None:
    for one, other in zip(*(AttributionStore(folder / "attributions") for folder in (a, b)), strict=True):
        np.testing.assert_array_equal(one.image_map, other.image_map)
        np.testing.assert_array_equal(one.text_map, other.text_map)
        assert one.steps == other.steps == 30 and one.stop_reason == other.stop_reason


def test_ctrl_c_writes_what_is_there_and_says_how_to_go_on(undisturbed, tmp_path, capsys):
    signals = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            main([*COMMAND, f"--output={tmp_path}", interrupt(7)])
    finally:
        signal.signal(signal.SIGINT, signals)
    found = list(AttributionStore(tmp_path / "attributions"))
    assert [(a.steps, a.stop_reason) for a in found] == [(7, "interrupted")] * 2
    said = capsys.readouterr().out.replace("\n", "")
    assert f"--ckpt_path {tmp_path / 'checkpoints' / 'last.ckpt'}" in said
    resume(tmp_path)
    assert_bit_equal(tmp_path, undisturbed)


def test_a_fit_that_was_killed_between_its_last_step_and_its_results_still_gives_them(undisturbed, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    last = (undisturbed / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(last)
    resume(tmp_path)
    assert_bit_equal(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_killed_fit_goes_on_and_ends_bit_equal(undisturbed, tmp_path):
    program = [sys.executable, "-m", "m2ib_lightning", *COMMAND, f"--output={tmp_path}", interrupt(7, kill=True)]
    killed = subprocess.run(program, cwd=Path(__file__).parent.parent, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "checkpoints" / "last.ckpt").is_file()
    resume(tmp_path)
    assert_bit_equal(tmp_path, undisturbed)
