"""Who waits for a folder, how long, and what is said of a folder that cannot be locked."""

import errno
import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2ib_lightning.errors import StoreError
from m2ib_lightning.store import lock
from m2ib_lightning.store.lock import FolderLock


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """The naps of who waits, on a clock that only naps move."""
    naps: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(naps), sleep=naps.append)
    monkeypatch.setattr(lock, "time", clock)
    return naps


def test_who_waits_asks_five_times_a_second_until_its_patience_is_over(tmp_path: Path, slept: list[float]):
    first, other = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    assert slept == []
    with pytest.raises(StoreError) as said:
        other.take(patience=0.2)
    assert slept == [0.2, 0.2]  # at 0, at 0.2, which is not yet over, and at 0.4
    assert str(said.value) == (
        f"Expected no other process that writes to {tmp_path} but there is one. "
        "Remedy: wait until it has ended, stop it, or choose another --output."
    )
    for wait in (other.take, other.share):
        slept.clear()
        with pytest.raises(StoreError):
            wait()
        assert set(slept) == {0.2} and 20 < sum(slept) < 20.5


def test_a_folder_that_is_left_meanwhile_is_taken(tmp_path: Path, slept: list[float], monkeypatch):
    first, other = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: slept.append(seconds) or first.release())
    other.take()
    assert slept == [0.2]
    first.release()  # nothing happens where it is not held
    with pytest.raises(StoreError):
        FolderLock(tmp_path).take(patience=-1)


def test_a_folder_is_made_with_those_above_it_and_shared_by_many(tmp_path: Path, slept: list[float]):
    folder = tmp_path / "run" / "attributions"
    first, second, third = (FolderLock(folder) for _ in range(3))
    first.take()
    first.share()
    second.share()
    third.share()
    assert [entry.name for entry in folder.iterdir()] == [".lock"] and slept == []
    first.release()
    second.release()
    with pytest.raises(StoreError):
        first.take(patience=-1)
    third.release()
    first.take(patience=-1)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_written_to_with_a_warning(tmp_path: Path, number: int, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match=f"^{tmp_path} is on a file system without locks. See that ") as warned:
        FolderLock(tmp_path).take()
    assert warned.pop(UserWarning).filename == __file__


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EAGAIN])
def test_a_folder_that_cannot_be_made_is_named_and_not_waited_for(tmp_path: Path, number: int, slept, monkeypatch):
    def refuse(path: object, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StoreError) as said:
        FolderLock(tmp_path / "locked").take()
    assert slept == [] and str(said.value) == (
        f"Expected to write to {tmp_path / 'locked'} but got {os.strerror(number)}. Remedy: make it writable."
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_a_lock_of_another_machine_is_waited_for(tmp_path: Path, number: int, slept, monkeypatch):
    def held(*_: object) -> None:
        raise OSError(number, "held")

    monkeypatch.setattr(fcntl, "flock", held)
    with pytest.raises(StoreError, match="no other process"):
        FolderLock(tmp_path).take(patience=1)
    assert len(slept) == 6 or len(slept) == 5  # naps of 0.2 add up to 1 but for rounding


def test_a_lock_that_fails_for_another_reason_is_said(tmp_path: Path, slept, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(StoreError, match=f"to write to {tmp_path} but got Input/output error. Remedy: "):
        FolderLock(tmp_path).take()
    assert slept == []
