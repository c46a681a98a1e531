"""When a part is written: at so many pairs, or after so many seconds."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from m2ib_lightning.store import AttributionStore, Provenance
from m2ib_lightning.store import writer as module
from m2ib_lightning.store.writer import PartWriter
from m2ib_lightning.types import BadPair

MADE = Provenance("embedded", "abc", {})


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that stands still unless it is set."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def bad(*names: object) -> list[BadPair]:
    return [BadPair(str(name), "a cat", "", "gone") for name in names]


def written(writer: PartWriter) -> list[list[str]]:
    """The ids of each part when the thread has done what it was given."""
    writer._thread.submit(int).result()
    return [writer.store._table(part, ["id"])["id"].to_pylist() for part in writer.store.parts]


def test_a_part_has_512_pairs_and_each_batch_once(tmp_path: Path, clock):
    writer = PartWriter(AttributionStore(tmp_path), MADE)
    writer.add(bad(*range(511)))
    assert written(writer) == []
    writer.add(bad(511))
    first = [str(i) for i in range(512)]
    assert written(writer) == [first] and [p.name for p in writer.store.parts] == ["part-00000-000000.parquet"]
    writer.add(bad(*range(512, 1023)))
    assert written(writer) == [first]
    writer.add(bad(1023))
    assert written(writer) == [first, [str(i) for i in range(512, 1024)]]
    writer.flush()
    assert len(writer.store.parts) == 2


def test_pairs_of_several_batches_are_counted_together(tmp_path: Path, clock):
    writer = PartWriter(AttributionStore(tmp_path), MADE, rank=3, pairs=2)
    found = []
    for name in "abcdefg":
        writer.add(bad(name))
        found.append(len(written(writer)))
    assert found == [0, 1, 1, 2, 2, 3, 3]
    writer.flush()
    assert written(writer) == [["a", "b"], ["c", "d"], ["e", "f"], ["g"]]
    assert [part.name for part in writer.store.parts] == [f"part-00003-00000{i}.parquet" for i in range(4)]


def test_a_part_is_written_half_a_minute_after_the_last_one_was_begun(tmp_path: Path, clock):
    writer, found = PartWriter(AttributionStore(tmp_path), MADE), []
    for now in (100, 129.9, 130, 159.9, 160):
        clock.now = now
        writer.add(bad(now))
        found.append(len(written(writer)))
    assert found == [0, 0, 1, 1, 2]
    assert written(writer) == [["100", "129.9", "130"], ["159.9", "160"]]


def test_nothing_is_written_where_nothing_waits(tmp_path: Path):
    writer = PartWriter(AttributionStore(tmp_path), MADE)
    writer.flush()
    writer.flush()
    assert writer.store.parts == []
