import json
import os
import threading
import time

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2ib_lightning import __version__
from m2ib_lightning.files import drop_unfinished
from m2ib_lightning.store import AttributionStore, Provenance, StoreError
from m2ib_lightning.store.lock import FolderLock
from m2ib_lightning.store.resume import check_same, differences
from m2ib_lightning.store.writer import PartWriter
from m2ib_lightning.types import BadPair
from tests.made import assert_equal, attribution

BAD = BadPair("bad", "a cat", "cat.png", "Expected an image but cat.png is cut short. Remedy: fetch it again.")
MADE = Provenance("embedded", "abc", {"model": {"image_beta": 3.0}})


@pytest.fixture
def store(tmp_path) -> AttributionStore:
    """Three parts: a, b; bad, c; d."""
    store = AttributionStore(tmp_path)
    for rows in (["a", "b"], ["bad", "c"], ["d"]):
        store.append([BAD if id == "bad" else attribution(id=id, score=0.1 * ord(id) - 9.7) for id in rows], MADE)
    return store


def test_attributions_come_back_as_they_were_and_in_order(tmp_path):
    store = AttributionStore(tmp_path)
    written = [attribution(id=str(i), image_map=None if i == 1 else np.eye(3, dtype=np.float32)) for i in range(5)]
    store.append(written[:2])
    store.append(written[2:])
    assert len(store) == 5 and len(store.parts) == 2
    for before, after in zip(written, store, strict=True):
        assert_equal(before, after)


def test_parts_from_before_metrics_were_kept_are_read(store):
    old = store.parts[2]
    table = pq.read_table(old).drop_columns("metrics")
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"m2ib.schema": b"1"}), old)
    assert store["d"].metrics == {} and store["a"].metrics["image/PointingGame"] == 1
    assert len(store.to_pandas()) == 5


def test_bad_pairs_are_kept_apart_from_attributions(store):
    assert [a.id for a in store] == ["a", "b", "c", "d"] and len(store) == 4
    assert list(store.errors()) == [BAD]
    assert store.ids() == {"a", "b", "bad", "c", "d"}
    assert store.stop_reasons().total() == 4
    with pytest.raises(KeyError, match=r"'bad' .* cut short"):
        store["bad"]


def test_bad_pairs_can_be_taken_out_and_nothing_else_goes(store):
    store.append([BAD._replace(id="alone")], MADE)
    assert "bad" in store.ids() and len(store.parts) == 4
    store.drop_errors()
    assert [a.id for a in store] == ["a", "b", "c", "d"] and not list(store.errors())
    assert len(store.parts) == 3 and store["c"].id == "c"
    assert store.provenance == MADE._replace(version=__version__)


def test_an_attribution_is_found_by_its_id(store):
    assert store["b"].id == "b" and store["d"].id == "d"
    with pytest.raises(KeyError, match=r"4 pairs .* 'e'"):
        store["e"]
    store.append([attribution(id="e")], MADE)
    assert store["e"].id == "e"


def test_looking_up_reads_one_row_group(tmp_path, monkeypatch):
    store = AttributionStore(tmp_path)
    store.append([attribution(id=str(i)) for i in range(200)])
    assert store["0"].id == "0"
    read: list[int] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i: read.append(i) or original(self, i))
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("reads a whole part"))
    assert store["150"].id == "150" and read == [2]
    groups = {}
    for row in (63, 64, 127, 128, 199):  # the first and the last of groups of 64
        assert store[str(row)].id == str(row)
        groups[row] = read.pop()
    assert groups == {row: row // 64 for row in groups}


def test_attributions_are_filtered_by_their_columns(store):
    assert [a.id for a in store.filter(pc.field("score") > 0.15)] == ["c", "d"]
    assert [a.id for a in store.filter(pc.field("id").isin(["a", "bad"]))] == ["a"]


def test_an_overlay_reads_the_picture_from_where_it_came(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    store = AttributionStore(tmp_path / "store")
    store.append([attribution(id="red", source=str(tmp_path / "red.png")), attribution(id="none", source="")])
    assert store.overlay("red").size == (40, 30)
    with pytest.raises(ValueError, match="in memory"):
        store.overlay("none")


def test_parts_are_read_without_this_package(store, tmp_path):
    import datasets

    files, cache = str(tmp_path / "*.parquet"), str(tmp_path / "c")
    maps = [
        pd.read_parquet(tmp_path).set_index("id").image_map["a"],
        duckdb.sql(f"select image_map from '{files}' where id = 'a'").fetchall()[0][0],
        datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)[0]["image_map"],
    ]
    for found in maps:
        np.testing.assert_array_equal(np.array(found, np.float32), attribution().image_map.ravel())
    assert duckdb.sql(f"select count(*), count(error) from '{files}'").fetchall() == [(5, 1)]
    row = pd.read_parquet(store.parts[0]).iloc[0]
    assert row.grid.tolist() == list(attribution().image_map.shape) and json.loads(row.settings)["method"] == "M2IB"


def test_all_of_it_becomes_a_frame_or_a_hugging_face_dataset(store):
    assert store.to_pandas().id.tolist() == store.to_dataset()["id"][:] == ["a", "b", "bad", "c", "d"]
    assert store.to_pandas().error.notna().tolist() == [False, False, True, False, False]


def test_half_precision_halves_the_maps_and_rounds_them(tmp_path):
    store = AttributionStore(tmp_path)
    large = attribution(image_map=np.random.default_rng(0).uniform(0, 300, (64, 64)).astype(np.float32))
    same = attribution(id="half", image_map=large.image_map)
    sizes = [store.append([a], precision=p).stat().st_size for a, p in ((large, "float32"), (same, "float16"))]
    assert sizes[0] - sizes[1] > 4096  # of twice 4096 bytes, but for what compression gains
    one, half = store
    np.testing.assert_allclose(half.image_map, one.image_map, rtol=5e-4)
    assert half.image_map.dtype == np.float32
    assert duckdb.sql(f"select len(image_map) from '{store.parts[1]}'").fetchall() == [(4096,)]
    assert len(store.to_pandas()) == 2


def test_the_metadata_say_what_a_part_was_made_with(store):
    assert store.provenance == Provenance("embedded", "abc", {"model": {"image_beta": 3.0}}, __version__)
    keys = {key for (key,) in duckdb.sql(f"select key from parquet_kv_metadata('{store.parts[0]}')").fetchall()}
    assert {f"m2ib.{name}".encode() for name in (*Provenance._fields, "schema")} <= keys


def test_an_unfinished_part_is_not_seen_and_not_left_behind(tmp_path, monkeypatch):
    store = AttributionStore(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=rf"{tmp_path} but the disk is full.*same command goes on"):
        store.append([attribution()])
    assert not list(tmp_path.iterdir()) and len(store) == 0
    assert store.to_pandas().empty


def test_what_a_killed_process_left_is_ignored_and_removed(store, tmp_path):
    (tmp_path / ".part-00000-000003.parquet.unfinished").write_bytes(b"PAR1 half")
    assert len(store) == 4 and len(pd.read_parquet(tmp_path)) == 5
    drop_unfinished(tmp_path)
    assert not list(tmp_path.glob(".part*"))


@pytest.mark.parametrize("damage", ["cut", "foreign", "flipped", "newer"])
def test_a_part_that_cannot_be_read_is_named_with_the_remedy(damage, store):
    whole = store.parts[1].read_bytes()
    if damage == "cut":
        store.parts[1].write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        store.parts[1].write_bytes(whole[:40] + bytes([whole[40] ^ 255]) + whole[41:])
    elif damage == "newer":
        table = pq.read_table(store.parts[1])
        pq.write_table(table.replace_schema_metadata({"m2ib.schema": "99"}), store.parts[1])
    else:
        pd.DataFrame({"x": [1]}).to_parquet(store.parts[1])
    for read in (lambda: list(store), store.ids, store.to_pandas, lambda: store["d"]):
        with pytest.raises(StoreError, match=rf"{store.parts[1]}.* Remedy: ") as said:
            read()
        assert "\n" not in str(said.value)
    store.parts[1].unlink()
    assert [a.id for a in store] == ["a", "b", "d"]


def garble(part, values: np.ndarray) -> None:
    """Change one bit of stored values, which lie in the file as they are when nothing compresses them."""
    whole = bytearray(part.read_bytes())
    whole[whole.find(values.tobytes()[400:408])] ^= 1
    part.write_bytes(whole)


def test_a_changed_bit_of_a_map_is_found_by_the_checksum_of_its_page(tmp_path):
    store = AttributionStore(tmp_path)
    noise = np.random.default_rng(0).integers(0, 2**32, (64, 64), dtype=np.uint32).view(np.float32)
    store.append([attribution(id="a", image_map=np.nan_to_num(noise))])
    store.check()
    garble(store.parts[0], noise)
    assert store.ids() == {"a"}  # nothing is wrong with those
    for read in (
        store.check,
        lambda: store["a"],
        lambda: list(store),
        lambda: list(store.filter(pc.field("id") == "a")),
    ):
        with pytest.raises(StoreError, match=rf"{store.parts[0]} is damaged.* Remedy: "):
            read()


def test_pairs_of_a_part_that_was_copied_count_once_and_the_copy_is_named(store, tmp_path):
    (tmp_path / "part-00007-000000.parquet").write_bytes(store.parts[1].read_bytes())
    for seen in (store, AttributionStore(tmp_path)):
        assert len(seen) == 4 and [a.id for a in seen] == ["a", "b", "c", "d"]
        assert list(seen.errors()) == [BAD] and seen.stop_reasons().total() == 4
        assert seen.to_pandas().id.tolist() == ["a", "b", "bad", "c", "d"]
        assert [a.id for a in seen.filter(pc.field("score") > 0.15)] == ["c", "d"]
        assert seen.doubled() == {"part-00007-000000.parquet": 2}
    store.drop_errors()
    assert not list(store.errors()) and store.doubled() == {"part-00007-000000.parquet": 1}


def test_an_open_store_follows_what_another_process_takes_out(store):
    other = AttributionStore(store.folder)
    assert (len(store), store["c"].id, store["a"].id) == (4, "c", "a")
    other.drop_errors()
    other.append([attribution(id="e"), attribution(id="f")], MADE)
    assert store["c"].id == "c" and len(store) == 6  # its part has another row in its place now
    other.drop({"a", "b", "e"})
    with pytest.raises(KeyError, match="3 pairs"):
        store["a"]
    assert store["f"].id == "f" and store.ids() == {"c", "d", "f"}


def test_pairs_can_be_taken_out_by_their_ids(store):
    store.drop({"a", "d", "nobody"})
    assert [a.id for a in store] == ["b", "c"] and list(store.errors()) == [BAD] and len(store.parts) == 2


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({b"m2ib.weights": None}, "the metadata 'm2ib.weights' but PART has none"),
        ({b"m2ib.weights": None, b"m2ib.model": None}, "the metadata 'm2ib.model' but PART has none"),
        ({b"m2ib.configuration": b"{nonsense"}, "a configuration as JSON .* but PART has another text"),
        ({b"m2ib.configuration": b"[" * 100_000}, "a configuration as JSON .* but PART has another text"),
        ({b"m2ib.configuration": b"3"}, "a configuration in the metadata but PART has 3"),
        ({b"m2ib.schema": b"two"}, "the number of a version but PART says 'two'"),
        ({b"m2ib.schema": b"-1"}, "the number of a version but PART says '-1'"),
        ({b"m2ib.schema": b"9" * 5000}, "the number of a version but PART says '9+'"),
    ],
)
def test_damaged_metadata_are_named_with_their_part(metadata, message, store):
    table = pq.read_table(store.parts[0])
    changed = {key: value for key, value in (table.schema.metadata | metadata).items() if value is not None}
    pq.write_table(table.replace_schema_metadata(changed), store.parts[0])
    with pytest.raises(
        StoreError, match=rf"^Expected {message}.* Remedy: move".replace("PART", str(store.parts[0]))
    ) as e:
        assert store.provenance
    assert "\n" not in str(e.value)


def test_our_metadata_over_foreign_columns_are_refused(store):
    metadata = pq.read_table(store.parts[0]).schema.metadata
    for foreign in ({"id": ["a"], "x": [1]}, {name: [1] for name in pq.read_table(store.parts[0]).column_names}):
        pq.write_table(pa.table(foreign).replace_schema_metadata(metadata), store.parts[0])
        with pytest.raises(
            StoreError, match=rf"the columns of an attribution store but {store.parts[0]} has others for"
        ):
            store.ids()


def test_a_part_has_its_name_only_when_all_of_it_is_on_the_disk(store, monkeypatch):
    before, seen, synced = store.parts[0].read_bytes(), [], os.fsync
    monkeypatch.setattr(
        "os.fsync", lambda file: seen.append((len(store.parts), store.parts[0].read_bytes())) or synced(file)
    )
    store.append([attribution(id="new")], MADE)
    assert seen[0] == (3, before)
    seen.clear()
    store.drop({"a"})
    assert seen[0] == (4, before) and store.parts[0].read_bytes() != before


def test_parts_of_a_process_are_counted_apart_from_those_of_the_others(tmp_path):
    store = AttributionStore(tmp_path)
    for rank, name in [
        (0, "0-000000"),
        (0, "0-000001"),
        (0, "0-000002"),
        (1, "1-000000"),
        (0, "0-000003"),
        (1, "1-000001"),
    ]:
        writer = PartWriter(store, MADE, rank=rank, seconds=0)
        writer.add([attribution(id=name)])
        writer.flush()
        assert (tmp_path / f"part-0000{name}.parquet").is_file(), name
    assert len(store) == 6


def test_pairs_are_written_in_parts_of_a_size_and_what_is_left_at_the_end(tmp_path):
    store = AttributionStore(tmp_path)
    writer = PartWriter(store, MADE, rank=2, pairs=3, seconds=1e9)
    for i in range(7):
        writer.add([attribution(id=str(i))])
    writer.flush()
    writer.flush()
    assert [a.id for a in store] == list("0123456")
    assert [part.name for part in store.parts] == [f"part-00002-00000{i}.parquet" for i in range(3)]
    assert [pq.read_metadata(part).num_rows for part in store.parts] == [3, 3, 1]


def test_a_part_is_written_when_its_time_has_come(tmp_path):
    writer = PartWriter(AttributionStore(tmp_path), MADE, seconds=0)
    writer.add([attribution()])
    deadline = time.monotonic() + 60
    while not len(writer.store) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(writer.store) == 1


def test_pairs_are_taken_while_a_part_is_written_and_its_failure_is_said_by_the_next_call(tmp_path, monkeypatch):
    from m2ib_lightning.store import writer as module

    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        assert go_on.wait(60)
        raise StoreError("no space")

    writer = PartWriter(AttributionStore(tmp_path), MADE, pairs=1, seconds=1e9)
    with monkeypatch.context() as full:
        full.setattr(module, "write_table", slow)
        writer.add([attribution(id="a")])
        assert begun.wait(60)
        go_on.set()
        with pytest.raises(StoreError, match="no space"):
            writer.add([attribution(id="b")])
    writer.flush()
    assert [a.id for a in writer.store] == ["a", "b"]


def test_a_part_that_waits_for_its_turn_does_not_take_the_pairs_that_come_meanwhile(tmp_path):
    writer, go_on = PartWriter(AttributionStore(tmp_path), MADE, pairs=1, seconds=1e9), threading.Event()
    writer._thread.submit(go_on.wait, 60)  # its thread has something else to do
    writer.add([attribution(id="a")])
    writer.pairs = 9
    writer.add([attribution(id="b")])
    go_on.set()
    writer.flush()
    assert [a.id for a in writer.store] == ["a", "b"] and writer.store.doubled() == {}


def test_an_interruption_just_after_a_part_has_its_name_doubles_no_pair(tmp_path, monkeypatch):
    store = AttributionStore(tmp_path)
    writer = PartWriter(store, MADE, seconds=1e9)
    writer.add([attribution()])
    from m2ib_lightning.store import writer as module

    def interrupted(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    original = module.write_table
    monkeypatch.setattr(module, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    writer.flush()
    assert len(store) == 1


def test_a_part_of_others_under_the_next_name_is_kept_and_no_pair_is_lost(tmp_path):
    store = AttributionStore(tmp_path)
    writer = PartWriter(store, MADE, seconds=1e9)
    writer.add([attribution(id="mine")])
    store.append([attribution(id="theirs")], MADE)
    writer.flush()
    assert [a.id for a in store] == ["theirs", "mine"] and len(store.parts) == 2


def test_a_part_that_cannot_be_written_waits_for_the_next_try(tmp_path, monkeypatch):
    writer = PartWriter(AttributionStore(tmp_path), MADE, seconds=1e9)
    writer.add([attribution(id="a")])
    with monkeypatch.context() as full, pytest.raises(StoreError):
        full.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        writer.flush()
    writer.add([attribution(id="b")])
    writer.flush()
    assert [a.id for a in writer.store] == ["a", "b"]


def test_results_of_another_configuration_are_refused_with_the_difference(tmp_path):
    there = Provenance("m", "w", {"model": {"init_args": {"image_beta": 3.0}}, "data": {"batch_size": 8}})
    check_same(tmp_path, there, there._replace(configuration={"model": {"init_args": {"image_beta": 3.0}}}))
    other = there._replace(configuration={"model": {"init_args": {"image_beta": 1.0}}})
    with pytest.raises(ValueError, match=r"\(model\.image_beta: 3\.0 there, 1\.0 now\)\. Remedy"):
        check_same(tmp_path, there, other)
    with pytest.raises(ValueError, match="weights: w there, v now"):
        check_same(tmp_path, there, there._replace(weights="v"))


@pytest.mark.parametrize(
    ("argument", "free"),
    [
        ("model.steps", False), ("model.noise_samples", False), ("model.seed", False), ("model.prior", False),
        ("model.image_layer", False), ("model.text_beta", False), ("model.modalities", False), ("precision", False),
        ("maps", False), ("data.source", False), ("data.text_column", False), ("model.noise_chunk", True),
        ("model.compile", True), ("model.graphs", True), ("data.batch_size", True), ("data.num_workers", True),
        ("data.on_error", True),
    ],
)  # fmt: skip
def test_only_what_changes_no_result_may_change_between_two_runs(argument, free):
    there: dict = {}
    inner = there
    for name in argument.split(".")[:-1]:
        inner = inner.setdefault(name, {})
    inner[argument.split(".")[-1]] = 1
    now = json.loads(json.dumps(there).replace("1", "2"))
    assert bool(differences(there, now)) is not free


def test_an_argument_that_only_one_of_two_runs_has_is_a_difference_unless_it_says_nothing():
    old, new = {"model": {"steps": 10}}, {"model": {"steps": 10, "keep": 0.9}}
    assert differences(old, new) == ["model.keep: null there, 0.9 now"]
    assert differences(new, old) == ["model.keep: 0.9 there, null now"]
    assert differences(old, {"model": {"steps": 10, "keep": None}}) == []


def test_differences_are_shown_as_json_and_words_without_quotes_unless_there_are_none():
    there, now = {"keep": True, "of": ["a"], "name": ""}, {"keep": None, "of": ["a", 1], "name": "b c"}
    assert differences(there, now) == [
        "keep: true there, null now", 'of: ["a"] there, ["a", 1] now', 'name: "" there, b c now',
    ]  # fmt: skip


def test_many_differences_are_not_all_named(tmp_path):
    there, now = ({"model": {f"a{i}": value for i in range(9)}} for value in (0, 1))
    with pytest.raises(ValueError, match=r"model\.a5: 0 there, 1 now; and 3 more\)"):
        check_same(tmp_path, Provenance("m", "w", there), Provenance("m", "w", now))


def test_a_folder_that_another_command_took_while_it_was_to_be_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("m2ib_lightning.store.lock.PATIENCE", 0)
    first, other = FolderLock(tmp_path), FolderLock(tmp_path)
    other.take()
    with pytest.raises(StoreError, match="no other process that writes"):
        first.share()
    other.release()
    first.share()


def test_one_command_at_a_time_writes_to_a_folder_and_its_processes_share_it(tmp_path):
    first, second, other = (FolderLock(tmp_path) for _ in range(3))
    first.take()
    first.share()
    second.share()
    with pytest.raises(StoreError, match=rf"{tmp_path} but there is one. Remedy: wait"):
        other.take(patience=0)
    first.release()
    second.release()
    other.take(patience=0)
    other.release()
