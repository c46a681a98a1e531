"""A fit that is interrupted or killed goes on from its last step."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main

COMMAND = ["fit", "--data.scenes=2", "--model.noise_samples=2", "--model.steps=30", "--model.tolerance=null"]
COMMAND += ["--early_stopping.patience=30", "--pictures=false", "--trainer.enable_progress_bar=false"]


class Interrupt(Callback):
    """Presses Ctrl-C at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


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
    interrupt = '--trainer.callbacks={"class_path": "tests.test_resume.Interrupt", "init_args": {"epoch": 7}}'
    try:
        with pytest.raises(SystemExit):
            main([*COMMAND, f"--output={tmp_path}", interrupt])
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


def test_a_killed_fit_goes_on_and_ends_bit_equal(undisturbed, tmp_path):
    program = [sys.executable, "-m", "m2ib_lightning", *COMMAND, f"--output={tmp_path}"]
    running = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Until some step, whichever it is, has been written; then without warning.
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.3)))
    running.kill()
    running.wait()
    if not AttributionStore(tmp_path / "attributions").parts:  # it may have ended just before
        resume(tmp_path)
    assert_bit_equal(tmp_path, undisturbed)
