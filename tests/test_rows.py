"""What a row of a store holds is what was given, whatever its shape."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.parts import Phrase, Region
from m2ib_lightning.store import AttributionStore, Provenance, StoreError
from m2ib_lightning.store.lock import FolderLock
from m2ib_lightning.store.writer import PartWriter
from tests.made import assert_equal, attribution


def test_a_map_that_is_wider_than_high_keeps_its_rows(tmp_path):
    given = attribution(image_map=np.arange(6, dtype=np.float32).reshape(2, 3), truncated=True, view=(0.1, 0, 0.9, 1))
    AttributionStore(tmp_path).append([given])
    assert_equal(given, AttributionStore(tmp_path)["a"])
    assert AttributionStore(tmp_path)["a"].truncated is True


def test_phrases_and_regions_come_back_with_the_pair_that_they_are_of(tmp_path):
    values = np.arange(6, dtype=np.float32)
    given = attribution(
        phrases=[
            Phrase("ice-cream", (3, 12), 0.25, values.reshape(2, 3)),
            Phrase("van", (13, 16), -0.5, values.reshape(3, 2), "uninformative"),
        ],
        regions=[Region((0.0, 0.25, 0.5, 1.0), 0.125, values)],
    )
    store = AttributionStore(tmp_path)
    store.append([attribution(id="before"), given, attribution(id="after")])
    assert_equal(given, store["a"])
    assert [(a.phrases, a.regions) for a in (store["before"], store["after"])] == [([], []), ([], [])]


def test_half_precision_halves_the_maps_and_reads_as_float32(tmp_path):
    store = AttributionStore(tmp_path)
    store.append([attribution(image_map=np.full((2, 2), 1 / 3, dtype=np.float32))], precision="float16")
    assert {str(pq.read_schema(store.parts[0]).field(n).type.value_type) for n in ("image_map", "text_map")} == {
        "halffloat"
    }
    assert store["a"].image_map.dtype == np.float32
    np.testing.assert_array_equal(store["a"].image_map, np.full((2, 2), np.float16(1 / 3), dtype=np.float32))


def test_the_fingerprint_of_each_picture_is_kept_under_its_own_id(tmp_path):
    store = AttributionStore(tmp_path)
    writer = PartWriter(store, Provenance("embedded", "abc", {}))
    writer.add([attribution(id="b"), attribution(id="a")], {"a": "one", "b": "two"})
    writer.flush()
    assert {id: mark for id, (_, mark) in store.inputs().items()} == {"a": "one", "b": "two"}


def test_a_parquet_file_of_somebody_else_is_said_to_be_none_of_ours(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "part-00000-00000.parquet")
    with pytest.raises(StoreError, match="is none"):
        list(AttributionStore(tmp_path))


def test_a_folder_that_was_left_is_free_although_a_child_still_has_its_file_open(tmp_path):
    lock = FolderLock(tmp_path)
    lock.take()
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # holds what it inherited until it is told
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.release()
    other = FolderLock(tmp_path)
    try:
        other.take(patience=0.0)
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
    other.release()
