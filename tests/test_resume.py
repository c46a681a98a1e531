"""A fit that is interrupted or killed goes on from its last step."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main
from m2ib_lightning.store import StoreError
from m2ib_lightning.store.checkpoint import CheckpointFiles
from tests.made import failure

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


@pytest.mark.slow
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


def test_a_finished_fit_is_not_gone_on_with(undisturbed, capsys):
    before = (undisturbed / "checkpoints" / "last.ckpt").read_bytes()
    said = failure(capsys, *COMMAND, f"--output={undisturbed}", f"--ckpt_path={undisturbed}/checkpoints/last.ckpt")
    assert "no earlier results" in said and len(AttributionStore(undisturbed / "attributions")) == 2
    assert (undisturbed / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "difference"),
    [
        ("--model.image_beta=1", "model.image_beta: 3.0 there, 1.0 now"),
        ("--model.steps=31", "model.steps: 30 there, 31 now"),
        ("--model.seed=4", "model.seed: 0 there, 4 now"),
        ("--trainer.precision=bf16-mixed", "precision: 32-true there, bf16-mixed now"),
    ],
)
def test_a_fit_goes_on_only_with_what_it_began_with(argument, difference, undisturbed, tmp_path, capsys):
    last = f"--ckpt_path={undisturbed}/checkpoints/last.ckpt"
    said = failure(capsys, *COMMAND, argument, f"--output={tmp_path}", last)
    assert f"the settings of the checkpoint but got others ({difference}" in said and "Remedy: " in said


class Program:
    """Runs when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_what_is_no_checkpoint_of_a_fit_is_refused_in_one_line_and_not_run(undisturbed, tmp_path, capsys):
    whole, files = (undisturbed / "checkpoints" / "last.ckpt").read_bytes(), CheckpointFiles()
    ran = tmp_path / "ran"
    torch.save({"state_dict": Program(f"touch {ran}")}, tmp_path / "program.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Program(f"touch {ran}")))
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    for name in ("program", "plain", "cut", "empty", "text", "weights"):
        with pytest.raises(
            ValueError, match=rf"{name}\.ckpt is damaged or holds something else, which was not run .*Remedy"
        ) as e:
            files.load_checkpoint(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(e.value) and not ran.exists()
    with pytest.raises(ValueError, match=r"gone.ckpt does not exist. Remedy"):
        files.load_checkpoint(tmp_path / "gone.ckpt")


def stepped(step: int) -> dict:
    return {"state_dict": {}, "callbacks": {}, "loops": {}, "global_step": step}


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    files, path = CheckpointFiles(), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint(stepped(1), path)
    before, seen, synced = path.read_bytes(), [], os.fsync
    monkeypatch.setattr("os.fsync", lambda file: seen.append(path.read_bytes()) or synced(file))
    files.save_checkpoint(stepped(2), path)
    assert seen[0] == before and files.load_checkpoint(path) == stepped(2)  # written beside it, synced, renamed

    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(
        StoreError, match=rf"room for a checkpoint in {path.parent} but the disk is full.*--ckpt_path {path}"
    ):
        files.save_checkpoint(stepped(3), path)
    assert files.load_checkpoint(path) == stepped(2) and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many kilobytes; `grow` makes room."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("needs the right to mount")

    yield folder, mount
    subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


@pytest.mark.slow
def test_a_fit_on_a_disk_that_fills_keeps_its_checkpoint_and_goes_on_where_there_is_room(
    undisturbed, small_disk, capsys
):
    folder, mount = small_disk
    size = (undisturbed / "checkpoints" / "last.ckpt").stat().st_size
    mount(f"size={3 * size // 2 // 1024}k")  # one checkpoint, and not a second one beside it
    said = failure(capsys, *COMMAND, f"--output={folder}")
    last = folder / "checkpoints" / "last.ckpt"
    assert "room for a checkpoint" in said and "the disk is full" in said and f"--ckpt_path {last}" in said
    assert CheckpointFiles().load_checkpoint(last)["global_step"] >= 1
    mount("remount,size=20m")
    resume(folder)
    assert_bit_equal(folder, undisturbed)


@pytest.mark.slow
def test_a_fit_on_a_disk_that_fills_at_the_pictures_is_finished_by_the_same_command(undisturbed, small_disk, capsys):
    folder, mount = small_disk
    size = (undisturbed / "checkpoints" / "last.ckpt").stat().st_size
    mount(f"size={5 * size // 2 // 1024}k")
    command = [argument for argument in COMMAND if argument != "--pictures=false"]
    said = failure(capsys, *command, f"--output={folder}")
    assert "room on the disk" in said and not AttributionStore(folder / "attributions").parts
    mount("remount,size=20m")
    main([*command, f"--output={folder}", f"--ckpt_path={folder}/checkpoints/last.ckpt"])
    assert_bit_equal(folder, undisturbed)
    assert len(list((folder / "pictures").glob("*.png"))) == 2


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
