"""Files with many pairs are read as far as they can be, and each fault is one bad pair."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.images import StoredImage
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.data.shards import Shards
from m2ib_lightning.types import BadPair


def tar(path: Path, **files: bytes) -> Path:
    """Files whose names have "__" for a slash and "_" for a dot, as a shard; empty ones are folders."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            info.size, info.type = len(data), tarfile.REGTYPE if data else tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_the_files_of_one_key_are_a_pair_named_by_shard_and_key(tmp_path: Path):
    files = {"in": b"", "in__a_jpg": b"A", "in__a_txt": b"\xef\xbb\xbfone", "in__a_JSON": b'{"boxes": [[0, 0, 1, 1]]}',
             "in___hidden_jpg": b"no", "nokind": b"no", "b_seg_png": b"S", "b_PNG": b"B", "b_txt": b"two"}  # fmt: skip
    path = tar(tmp_path / "s-1.tar", **files)
    first, second = Shards(path, Columns(boxes="json.boxes")).references()
    assert first.truth.boxes == [[0, 0, 1, 1]]
    image = StoredImage(f"{path}/in/a.jpg", b"A")
    assert first == PairReference("s-1-in-a", image, "one", first.truth, f"in/a of {path}")
    # A column of the first row is the column of all.
    assert second == PairReference("s-1-b", "", "two", second.truth, f"b of {path}")
    named = Shards(path, Columns("seg.png", "txt"))
    assert [pair.image for pair in Shards(tar(tmp_path / "t.tar", b_seg_png=b"S", b_txt=b"two"), named.columns)] == [
        StoredImage(f"{tmp_path}/t.tar/b.seg.png", b"S")
    ]


@pytest.mark.parametrize("kind", ["txt", "text", "cls", "caption"])
def test_these_files_of_a_shard_are_text(kind: str, tmp_path: Path):
    path = tar(tmp_path / "s.tar", **{"a_png": b"A", f"a_{kind}": "caf\xe9".encode()})
    (pair,) = Shards(path, Columns(text=kind)).references()
    assert pair.text == "caf\xe9"


def test_an_id_of_its_own_wins_over_the_key(tmp_path: Path):
    path = tar(tmp_path / "s.tar", a_png=b"A", a_txt=b"one", a_json=b'{"id": 5}')
    (pair,) = Shards(path, Columns(id="json.id")).references()
    assert pair.id == "5" and pair.image.name == f"{path}/a.png"


def test_cells_that_cannot_be_parsed_are_that_pairs_fault(tmp_path: Path):
    files = {
        "x__1_txt": b"\xff",
        "x__1_png": b"A",
        "x__2_txt": b"two",
        "x__2_png": b"B",
        "x__3_json": b"{",
        "x__3_png": b"C",
    }
    path = tar(tmp_path / "s.tar", **files)
    bad, good, other = Shards(path).references()
    assert (bad.id, bad.text, bad.source, good.id) == ("s-x-1", "", str(path), "s-x-2")
    assert bad.error.startswith("Expected text in UTF-8 and objects in JSON but got 'utf-8' codec can't decode")
    assert bad.error.endswith(f" in x/1 of {path}. Remedy: correct it.") and other.id == "s-x-3"


def test_the_reason_of_a_fault_has_at_most_120_characters(tmp_path: Path, monkeypatch):
    def fail(_: object) -> None:
        raise ValueError("a\n" + "b" * 200)

    path = tar(tmp_path / "s.tar", a_png=b"A", a_txt=b"x", b_png=b"A", b_json=b"{}")
    monkeypatch.setattr(json, "loads", fail)
    *_, bad = Shards(path).references()
    assert f"JSON but got a {'b' * 118} in b of " in bad.error
    broken = parquet(tmp_path / "p.parquet", image=["a.png"], text=["a"])
    parquet(tmp_path / "q.parquet", image=["a.png"], text=["a"])
    source = Shards(tmp_path / "*.parquet")
    assert source.count() == 2
    monkeypatch.setattr(pq, "ParquetFile", lambda file: fail(file) if file == str(broken) else None)
    with pytest.raises(AttributeError):  # of the second file, which was read on
        found = []
        for pair in source.references():
            found.append(pair)
    assert f"after 0 pairs (a {'b' * 118}). Remedy: get it again" in found[0].error and found[0].id == "p"

    def silent(_: object) -> None:
        raise OSError(" . ")

    monkeypatch.setattr(pq, "ParquetFile", silent)
    assert "(OSError)" in next(source.references()).error


def test_rows_of_parquet_files_are_pairs_with_paths_beside_their_file(tmp_path: Path):
    (tmp_path / "in").mkdir()
    picture = {"bytes": b"PNG", "path": "x.png"}
    parquet(tmp_path / "in" / "a.parquet", image=["0.png", "1.png"], text=["zero", "one"], id=["a", "b"])
    path = parquet(tmp_path / "in" / "B.PARQUET", image=[picture], text=["two"], id=["c"])
    source = Shards(tmp_path / "in" / "*")
    assert [(p.id, p.image, p.text, p.place) for p in source.references()] == [
        ("c", StoredImage("x.png", b"PNG"), "two", f"row 1 of {path}"),
        ("a", f"{tmp_path}/in/0.png", "zero", f"row 1 of {tmp_path}/in/a.parquet"),
        ("b", f"{tmp_path}/in/1.png", "one", f"row 2 of {tmp_path}/in/a.parquet"),
    ]
    assert source.count() == 3 and source.holds_images


def test_processes_share_files_where_there_are_enough_and_ids_tell_pairs_apart(tmp_path: Path):
    for name in "abcd":
        parquet(tmp_path / f"{name}.parquet", image=["x.png"], text=["x"], id=[name])
        tar(tmp_path / f"{name}.tar", k_png=b"A", k_txt=b"x")
    for suffix, ids in (("parquet", ["a", "d", "b", "c"]), ("tar", [f"{name}-k" for name in "adbc"])):
        source = Shards(tmp_path / f"*.{suffix}")
        assert [pair.id for i in range(3) for pair in source.part(i, 3)] == ids
        assert [len(list(source.part(i, 4))) for i in range(4)] == [1] * 4 and source.part(0, 5) is None
    assert Shards(tmp_path / "a.tar").count() is None and Shards(tmp_path / "*.parquet").count() == 4
    parquet(tmp_path / "a.parquet", image=["x.png"], text=["x"])
    assert Shards(tmp_path / "*.parquet").part(0, 2) is None
    assert Shards(tmp_path / "a.tar").part(0, 1).files == [f"{tmp_path}/a.tar"]


def test_a_damaged_file_is_one_bad_pair_after_what_could_be_read_of_it(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 half")
    parquet(tmp_path / "b.parquet", image=["0.png"], text=["zero"])
    source = Shards(tmp_path / "*.parquet")
    bad, good = source
    assert isinstance(bad, BadPair) and (bad.id, bad.text, bad.source) == ("a", "", f"{tmp_path}/a.parquet")
    assert bad.error.startswith(
        f"Expected a whole file but {tmp_path}/a.parquet is damaged or cut short after 0 pairs ("
    )
    assert bad.error.endswith("). Remedy: get it again, then --retry_errors true.")
    assert good.text == "zero" and source.count() == 2
    whole = tar(tmp_path / "c.tar", a_png=b"A", a_txt=b"one", b_png=b"A", b_txt=b"two").read_bytes()
    (tmp_path / "c.tar").write_bytes(whole[: 8 * 512])  # all but the end
    first, cut = Shards(tmp_path / "c.tar")
    assert (first.id, cut.id) == ("c-a", "c") and "cut short after 1 pairs (unexpected end of data)" in cut.error


def test_where_nothing_can_be_read_the_first_fault_is_said(tmp_path: Path):
    with pytest.raises(
        ValueError, match=f"^Expected files but {tmp_path}/x.tar matches none. Remedy: correct the path"
    ):
        Shards(tmp_path / "x.tar")
    tar(tmp_path / "a.tar")
    for use in (Shards.count, lambda source: list(source), lambda source: source.part(0, 1)):
        with pytest.raises(
            ValueError, match=f"^Expected pairs in {tmp_path}/a.tar but there are none. Remedy: get the "
        ):
            use(Shards(tmp_path / "a.tar"))
    for name in "bc":
        (tmp_path / f"{name}.tar").write_bytes(b"x" * 100)
    with pytest.raises(
        ValueError, match=rf"^Expected pairs in {tmp_path}/b.tar but {tmp_path}/b.tar is damaged \(.*\)\. "
    ):
        Shards(tmp_path / "[bc].tar").count()
    with pytest.raises(ValueError, match=f"a column 'image' in {tmp_path}/d.tar but got 'txt'. Remedy"):
        list(Shards(tar(tmp_path / "d.tar", a_txt=b"one")))
