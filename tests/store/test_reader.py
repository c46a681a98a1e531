"""A store reads each pair once, from as little as it needs, whatever other processes do to its parts."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2ib_lightning.data.images import load_image
from m2ib_lightning.errors import StoreError
from m2ib_lightning.store.parts import Provenance
from m2ib_lightning.store.reader import AttributionStore
from m2ib_lightning.store.writer import PartWriter
from m2ib_lightning.types import BadPair
from m2ib_lightning.version import __version__
from tests.made import attribution

BAD = BadPair("bad", "a cat", "cat.png", "gone")
MADE = Provenance("embedded", "abc", {"steps": 3})


@pytest.fixture
def store(tmp_path: Path) -> AttributionStore:
    """Parts of a, b; of bad, c; and of d."""
    store = AttributionStore(tmp_path)
    for number, rows in enumerate((["a", "b"], ["bad", "c"], ["d"])):
        found = [BAD if id == "bad" else attribution(id=id, score=ord(id) - 96) for id in rows]
        assert store.append(found, MADE._replace(weights=f"w{number}")).name == f"part-00000-00000{number}.parquet"
    return store


def plain(*numbers: int) -> list:
    return [attribution(id=str(i), history={}, metrics={}) for i in numbers]


def test_rows_that_another_part_has_already_are_passed_over_wherever_they_stand(tmp_path: Path):
    store = AttributionStore(tmp_path)
    store.append(plain(*range(70)), MADE)
    rows = [*range(70, 330)]
    rows[0], rows[258] = 3, 69  # the second one in a further batch of 256
    store.append([*plain(*rows), BAD._replace(id="5")], MADE)
    once = [*range(70), *rows[1:258], *rows[259:]]
    assert [a.id for a in store] == [str(i) for i in once] and len(store) == len(once)
    assert store.doubled() == {"part-00000-000001.parquet": 3} and list(store.errors()) == []
    assert [a.id for a in store.filter(pc.field("id").isin(["3", "69", "71"]))] == ["3", "69", "71"]
    # Groups of 64: the last row of one, the first of the next, and the last of all.
    assert [store[str(i)].id for i in (63, 64, 134, 135, 329)] == ["63", "64", "134", "135", "329"]


def test_what_is_there_is_counted_and_found_by_id(store: AttributionStore):
    assert repr(store) == f"AttributionStore({str(store.folder)!r}: 4 attributions)"
    assert [a.id for a in store] == ["a", "b", "c", "d"] and store.ids() == {"a", "b", "bad", "c", "d"}
    assert [store[id].id for id in "abcd"] == ["a", "b", "c", "d"] and list(store.errors()) == [BAD]
    assert store.stop_reasons() == {"max_steps": 4} and store.doubled() == {}
    assert store.provenance == MADE._replace(weights="w0", version=__version__)
    assert store.to_pandas().id.tolist() == ["a", "b", "bad", "c", "d"]
    assert [a.id for a in store.filter(pc.field("score") >= 2)] == ["b", "c", "d"]
    with pytest.raises(KeyError, match=f"Expected an id of the 4 pairs in {store.folder} but got 'e'"):
        store["e"]
    with pytest.raises(KeyError, match=f"Expected an explained pair but 'bad' in {store.folder} is bad: gone"):
        store["bad"]


def test_an_empty_store_has_nothing_and_numbers_its_parts_by_process(tmp_path: Path):
    store = AttributionStore(tmp_path / "none")
    assert (len(store), list(store), store.ids(), store.provenance, store.parts) == (0, [], set(), None, [])
    assert store.to_pandas().empty and "image_map" in store.to_pandas().columns
    with pytest.raises(ValueError, match=f"Expected attributions in {store.folder} but there are none. Remedy: run "):
        store.to_dataset()
    assert store.next_part().name == store.next_part(0).name == "part-00000-000000.parquet"
    store.folder.mkdir()
    for name in ("part-00012-000041.parquet", "part-00012-000007.parquet", "part-00003-000099.parquet"):
        (store.folder / name).touch()
    assert store.next_part(12).name == "part-00012-000042.parquet"
    assert store.next_part(3) == store.folder / "part-00003-000100.parquet"


def test_a_part_says_its_model_as_the_settings_of_the_first_result_do(tmp_path: Path):
    store, settings = AttributionStore(tmp_path), {"backbone": "embedded", "weights": "abc", "steps": 3}
    store.append([BAD, attribution(settings=settings), attribution(id="b", settings={"backbone": "other"})])
    assert store.provenance == Provenance("embedded", "abc", settings, __version__)
    other = AttributionStore(tmp_path / "bad")
    other.append([BAD])
    assert other.provenance == Provenance("", "", {}, __version__)


def test_nothing_is_read_again_that_is_known(store: AttributionStore, monkeypatch):
    assert len(store) == 4 and store["c"].id == "c"
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("reads a whole part"))
    assert len(store) == 4 and store.ids() >= {"d"} and store["b"].id == "b"


def test_what_other_processes_replace_and_take_away_is_noticed(store: AttributionStore):
    assert (store["c"].id, store["a"].id, len(store)) == ("c", "a", 4)
    other = AttributionStore(store.folder)
    other.drop_errors()
    assert store["c"].id == "c"  # in another row now
    other.drop({"a", "b"})
    assert len(other.parts) == 2
    with pytest.raises(KeyError, match="the 2 pairs"):
        store["a"]
    other.append(plain(7), MADE)
    assert store["7"].id == "7" and store.ids() == {"c", "d", "7"}


def test_pairs_are_taken_out_and_their_neighbours_stay_as_they_were(store: AttributionStore):
    before = [part.read_bytes() for part in store.parts]
    store.drop(["b", "nobody"])
    after = [part.read_bytes() for part in store.parts]
    assert after[1:] == before[1:] and after[0] != before[0] and store.ids() == {"a", "bad", "c", "d"}
    assert store.provenance == MADE._replace(weights="w0", version=__version__)
    store.drop(["bad", "c"])
    assert [part.name for part in store.parts] == ["part-00000-000000.parquet", "part-00000-000002.parquet"]


def test_captions_and_fingerprints_are_those_of_attributions_and_empty_where_none_were_kept(tmp_path: Path):
    store = AttributionStore(tmp_path)
    writer = PartWriter(store, MADE)
    writer.add([attribution(id="a", text="one"), BAD], {"a": "5-6-7"})
    writer.flush()
    store.append([attribution(id="b", text="two")], MADE)
    old = store.append([attribution(id="c", text="three")], MADE)
    pq.write_table(pq.read_table(old).drop_columns(["fingerprint", "verdict"]), old)
    assert store.inputs() == {"a": ("one", "5-6-7"), "b": ("two", ""), "c": ("three", "")}
    assert store.verdicts() == {attribution().verdict: 2, "": 1}


def test_an_overlay_is_that_of_the_attribution_over_its_picture(tmp_path: Path):
    Image.linear_gradient("L").resize((40, 30)).save(tmp_path / "grey.png")
    store = AttributionStore(tmp_path / "store")
    store.append([attribution(source=str(tmp_path / "grey.png")), attribution(id="memory", source="")])
    picture = load_image(tmp_path / "grey.png")
    for drawn, opacity in ((store.overlay("a"), 0.9), (store.overlay("a", 0.5), 0.5)):
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(store["a"].overlay(picture, opacity)))
    with pytest.raises(ValueError, match=r"on disk but that of 'memory' was in memory. Remedy: store\[id\].overlay"):
        store.overlay("memory")


def test_a_changed_bit_is_noticed_by_whatever_reads_the_map(tmp_path: Path):
    store = AttributionStore(tmp_path)
    noise = np.frombuffer(np.random.default_rng(0).bytes(4 * 64**2), np.float32).reshape(64, 64)
    store.append([attribution(image_map=noise)], MADE)
    store.check()
    whole = bytearray(store.parts[0].read_bytes())
    whole[whole.index(noise.tobytes()[400:408])] ^= 1
    store.parts[0].write_bytes(whole)
    assert store.ids() == {"a"} and list(store.filter(pc.field("id") == "b")) == []
    for read in (store.check, store.to_pandas, lambda: store["a"], lambda: list(store.filter(pc.field("id") == "a"))):
        with pytest.raises(StoreError, match=f"^Expected a whole part but {store.parts[0]} is damaged "):
            read()
