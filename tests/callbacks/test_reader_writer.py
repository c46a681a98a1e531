from pathlib import Path
from types import SimpleNamespace

import pytest

from m2ib_lightning.callbacks import reader_writer
from m2ib_lightning.callbacks.reader_writer import ReaderWriter
from m2ib_lightning.callbacks.signals import Ended
from m2ib_lightning.methods.reader_training import ReaderTraining
from m2ib_lightning.store.checkpoint import CheckpointFiles


class Training(ReaderTraining):
    """One that trains nothing, and notes where its reader is saved."""

    def __init__(self, saved: list, size: tuple[int, int] = (32, 2), **setting: object) -> None:
        self.__dict__["reader"] = SimpleNamespace(size=size, setting=setting, save=saved.append)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(reader_writer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def trainer() -> SimpleNamespace:
    saved: list = []
    return SimpleNamespace(saved=saved, save_checkpoint=saved.append, strategy=SimpleNamespace(checkpoint_io=None))


def test_the_reader_and_a_checkpoint_are_written_when_more_than_half_a_minute_has_passed(tmp_path, clock, trainer):
    writer, module = ReaderWriter(tmp_path), Training(trainer.saved)
    writer.setup(trainer, module, "fit")
    assert isinstance(trainer.strategy.checkpoint_io, CheckpointFiles)
    last, found = tmp_path / "checkpoints" / "last.ckpt", []
    for now in (1029, 1030, 1030.5, 1060, 1060.5, 1061):
        clock.now = now
        writer.on_train_batch_end(trainer, module, None, None, 0)
        found.append(len(trainer.saved))
    assert found == [0, 0, 2, 2, 2, 4] and trainer.saved == [tmp_path, last] * 2
    writer.on_train_end(trainer, module)
    assert trainer.saved == [tmp_path, last] * 3
    writer.on_train_end(trainer, SimpleNamespace())
    assert len(trainer.saved) == 6


def test_there_is_something_to_go_on_from_when_there_is_a_checkpoint(tmp_path: Path):
    writer = ReaderWriter(tmp_path)
    assert writer.last is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert writer.last == str(tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("problem", "written"), [(KeyboardInterrupt(), 2), (Ended(143), 2), (SystemExit(1), 2), (RuntimeError(), 0)]
)
def test_what_was_trained_is_written_when_somebody_ends_it(problem, written, tmp_path, trainer, capsys):
    ReaderWriter(tmp_path).on_exception(trainer, Training(trainer.saved), problem)
    assert len(trainer.saved) == written and getattr(problem, "told", True) is True
    said = f"Interrupted. The same command goes on; {tmp_path} holds what was trained so far.\n"
    assert capsys.readouterr().out == said * bool(written)


def test_a_training_goes_on_only_with_what_it_was_begun_with(tmp_path, trainer):
    writer, checkpoint = ReaderWriter(tmp_path), {}
    writer.on_save_checkpoint(trainer, Training([], steps=3, seed=0), checkpoint)
    assert checkpoint == {"made_with": {"size": [32, 2], "steps": 3, "seed": 0}}
    writer.on_load_checkpoint(trainer, Training([], steps=3, seed=0), checkpoint)
    with pytest.raises(ValueError) as said:
        writer.on_load_checkpoint(trainer, Training([], (64, 2), steps=4, seed=0), checkpoint)
    assert str(said.value) == (
        f"Expected the settings that the reader in {str(tmp_path)!r} was begun with but got others "
        "(size: [32, 2] there, [64, 2] now; steps: 3 there, 4 now). Remedy: the same settings, or another --output."
    )
    with pytest.raises(ValueError, match=r"a5: null there, 5 now\). Remedy"):  # the size and five more are named
        writer.on_load_checkpoint(trainer, Training([], **{f"a{i}": i for i in range(1, 9)}), {})
    writer.on_save_checkpoint(trainer, SimpleNamespace(), checkpoint)
    assert checkpoint == {"made_with": {}}
