import os
from pathlib import Path

import pytest

from m2ib_lightning.files import drop_unfinished, replacing


def test_a_file_is_there_when_it_is_whole_and_stays_as_it_was_when_it_could_not_be_written(tmp_path: Path):
    note = tmp_path / "note.txt"
    for text in ("one", "two"):
        with replacing(note) as unfinished:
            unfinished.write_text(text)
            assert unfinished.parent == tmp_path
            assert unfinished.name == f".note.txt.{os.getpid()}.unfinished"
            assert not note.exists() if text == "one" else note.read_text() == "one"
        assert note.read_text() == text
    with pytest.raises(RuntimeError), replacing(note) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), replacing(note):
        raise RuntimeError  # before anything is written
    assert note.read_text() == "two" and os.listdir(tmp_path) == ["note.txt"]


def test_what_killed_processes_left_is_removed_and_what_somebody_else_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch
):
    left = [tmp_path / f".{name}.7.unfinished" for name in "abc"]
    for file in (*left, tmp_path / "a.unfinished", tmp_path / ".a"):
        file.touch()
    remove = Path.unlink

    def both_at_once(file: Path, **how: bool) -> None:
        remove(file)
        remove(file, **how)

    monkeypatch.setattr(Path, "unlink", both_at_once)
    drop_unfinished(tmp_path)
    drop_unfinished(tmp_path / "nowhere")
    assert sorted(os.listdir(tmp_path)) == [".a", "a.unfinished"]


def test_the_new_name_is_on_the_disk_where_the_system_can_and_the_file_is_there_where_it_cannot(
    tmp_path: Path, monkeypatch
):
    synced, sync = [], os.fsync

    def no_folders(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if synced[-1] == str(tmp_path):
            raise OSError("no folders")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    before = len(os.listdir("/proc/self/fd"))
    with replacing(tmp_path / "a") as unfinished:
        unfinished.write_text("whole")
    assert synced == [str(unfinished), str(tmp_path)] and (tmp_path / "a").read_text() == "whole"
    assert len(os.listdir("/proc/self/fd")) == before
