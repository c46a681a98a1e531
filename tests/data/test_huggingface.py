"""Parquet files, tar shards and data sets of the hub are streamed by `datasets`, images decoded here."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2ib_lightning.data import Columns, HuggingFace, PairDataModule, StoredImage, open_source
from m2ib_lightning.data.ids import UNNAMED
from m2ib_lightning.types import BadPair, Pair


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def png(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 3), colour).save(file, "PNG")
    return file.getvalue()


def shards(folder: Path, count: int = 2, each: int = 3) -> str:
    """Tar files as WebDataset writes them; picture 1 of each is cut short. Returns their wild card."""
    for shard in range(count):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as tar:
            for i in range(each):
                picture = png(10 * shard + i)
                files = {"png": picture[:40] if i == 1 else picture, "txt": f"picture {i}".encode()}
                files["json"] = json.dumps({"caption": f"more of {i}", "boxes": [[0, 0, 2, 1]]}).encode()
                for suffix, data in files.items():
                    info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder / "part-*.tar")


def read(source: str | None = None, **options) -> dict[str, Pair | BadPair]:
    data = PairDataModule(source=source, batch_size=2, **options)
    data.setup("predict")
    pairs = [pair for batch in data.predict_dataloader() for pair in batch]
    assert len({pair.id for pair in pairs}) == len(pairs)
    return {pair.id: pair for pair in pairs}


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_tar_shards_give_every_pair_once_with_ids_of_shard_and_key(tmp_path: Path, workers: int):
    pairs = read(shards(tmp_path), num_workers=workers)
    assert set(pairs) == {f"part-{shard}-{i:04d}" for shard in range(2) for i in range(3)}
    assert pairs["part-1-0002"].text == "picture 2"
    assert pairs["part-1-0002"].source == f"{tmp_path}/part-1.tar/0002.png"
    assert np.asarray(pairs["part-1-0002"].image).tolist() == [[[12] * 3] * 4] * 3
    bad = [pair for pair in pairs.values() if isinstance(pair, BadPair)]
    assert sorted(pair.id for pair in bad) == ["part-0-0001", "part-1-0001"]
    assert all(".tar/0001.png, " in pair.error for pair in bad)


def test_parts_of_tar_shards_are_read_by_themselves(tmp_path: Path):
    source = open_source(shards(tmp_path, count=4))
    parts = [source.part(index, 2) for index in range(2)]
    ids = [[pair.id for pair in part] for part in parts]
    assert sorted(ids[0] + ids[1]) == sorted(pair.id for pair in source) and len(ids[0]) == len(ids[1]) == 6
    assert source.part(0, 5) is None


def test_cells_inside_of_json_are_named_with_a_dot(tmp_path: Path):
    source = open_source(shards(tmp_path), Columns(text="json.caption", boxes="json.boxes"))
    pair = next(iter(source))
    assert pair.text == "more of 0"
    truth = pair.truth.read(pair.image, (4, 3), pair.text)
    assert truth.mask.sum() == 2 and truth.mask[0, :2].all()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("inside", [True, False], ids=["bytes", "paths"])
def test_parquet_holds_images_or_their_paths(tmp_path: Path, inside: bool, workers: int):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3)] if inside else [f"{i}.png" for i in range(3)]
    table = {"image": images, "caption": list("abc"), "boxes": [[[0, 0, 1, 1]], None, []]}
    pq.write_table(pa.table(table), tmp_path / "pairs.parquet")
    pairs = read(str(tmp_path / "pairs.parquet"), text_column="caption", num_workers=workers)
    assert [(pair.id, pair.text, pair.image.getpixel((0, 0))[0]) for pair in pairs.values()] == [
        ("0", "a", 0),
        ("1", "b", 1),
        ("2", "c", 2),
    ]
    data = PairDataModule(source=str(tmp_path), text_column="caption")
    data.setup("test")
    masks = [pair.truth.mask for pair in next(iter(data.test_dataloader()))]
    assert data.count == 3 and masks[0].sum() == 1 and masks[1] is masks[2] is None


def test_a_test_does_not_list_what_holds_its_images(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("m2ib_lightning.data.datamodule.list_pairs", lambda source: pytest.fail("listed"))
    data = PairDataModule(source=shards(tmp_path, count=1, each=1))
    data.setup("test")
    assert [pair.id for batch in data.test_dataloader() for pair in batch] == ["part-0-0000"]


def test_the_hub_is_asked_for_the_name_and_split_given(monkeypatch):
    asked = []
    rows = {"image": [Image.new("L", (2, 2))] * 2, "text": ["a cat", "a dog"], "id": [5, 6]}
    rows = datasets.Dataset.from_dict(rows, datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "id": datasets.Value("int64")}
    ))  # fmt: skip
    splits = {"train": rows.to_iterable_dataset(), "test": rows.select([1]).to_iterable_dataset()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **options: asked.append((a, options)) or splits)
    assert list(read("hf:someone/pairs:test")) == ["6"]
    assert asked[0][0] == ("someone/pairs", None) and asked[0][1]["streaming"]
    assert list(read(dataset=HuggingFace("someone/pairs", "train", "en"))) == ["5", "6"]
    assert asked[1][0] == ("someone/pairs", "en")
    with pytest.raises(ValueError, match=r"a split of someone/pairs \(train, test\) but got None. Remedy: hf:"):
        read("hf:someone/pairs")


def test_a_folder_of_splits_is_read_by_split(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        table = pa.table({"image": [{"bytes": png(1), "path": "a.png"}], "text": [split]})
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert [pair.text for pair in read(f"hf:{tmp_path}:test").values()] == ["test"]


def test_a_process_reads_files_of_its_own_only_where_there_are_enough_and_ids_tell_their_pairs_apart(tmp_path: Path):
    for kind in ("named", "unnamed"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            rows = {"image": [f"{i}.png"] * 2, "text": ["x", "y"]} | (
                {"id": [f"{i}a", f"{i}b"]} if kind == "named" else {}
            )
            pq.write_table(pa.table(rows), tmp_path / kind / f"train-0000{i}-of-00002.parquet")
    named = HuggingFace(str(tmp_path / "named"), "train")
    assert [[pair.id for pair in named.part(index, 2)] for index in range(2)] == [["0a", "0b"], ["1a", "1b"]]
    assert named.part(0, 3) is None
    assert HuggingFace(str(tmp_path / "unnamed"), "train").part(0, 2) is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/*.tar", "files but nowhere/.*tar matches none"),
        ("hf:no/such", "a data set but got no/such: "),
        ("no/such", "a file or folder of pairs but got no/such.* or write hf:no/such for"),
    ],
)
def test_what_cannot_be_found_is_named_in_one_line(source: str, message: str):
    with pytest.raises(ValueError, match=rf"^Expected {message}.* ?Remedy: .*$|^Expected {message}.*$"):
        PairDataModule(source=source).setup("predict")


def test_a_missing_column_and_a_broken_file_are_named(tmp_path: Path):
    pq.write_table(pa.table({"picture": ["a.png"], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a column 'image' in .*a.parquet but got 'picture', 'text'. Remedy: .*"):
        PairDataModule(source=str(tmp_path / "a.parquet")).setup("predict")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"^Expected .*b.parquet.* Remedy: .*$"):
        PairDataModule(source=str(tmp_path / "b.parquet")).setup("predict")


def cut(file: Path, keep: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep)])


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_of_a_tar_file_that_is_cut_short_what_can_be_read_is_read_and_the_file_named(tmp_path: Path, workers: int):
    source = shards(tmp_path, count=3, each=3)
    size = (tmp_path / "part-1.tar").stat().st_size
    # The first two pairs are 3 files of 2 blocks each; then 100 bytes into the first file of the third.
    cut(tmp_path / "part-1.tar", (2 * 3 * 2 * 512 + 512 + 30) / size)
    pairs = read(source, num_workers=workers)
    assert set(pairs) == {f"part-{s}-000{i}" for s in range(3) for i in range(3)} - {"part-1-0002"} | {"part-1"}
    bad = pairs["part-1"]
    assert isinstance(bad, BadPair) and bad.source == f"{tmp_path}/part-1.tar"
    assert "part-1.tar is damaged or cut short after 2 pairs (unexpected end of data). Remedy: " in bad.error


@pytest.mark.parametrize("end", [0, 512, 300], ids=["between two files", "after a header", "within a header"])
def test_a_tar_file_that_is_cut_anywhere_is_noticed(tmp_path: Path, end: int):
    source = shards(tmp_path, count=2, each=3)
    cut(tmp_path / "part-0.tar", (3 * 2 * 512 + end) / (tmp_path / "part-0.tar").stat().st_size)
    pairs = read(source)
    assert isinstance(pairs["part-0"], BadPair) and "cut short" in pairs["part-0"].error
    assert sum(name.startswith("part-1-") for name in pairs) == 3


def test_one_broken_parquet_file_among_others_is_one_bad_pair(tmp_path: Path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png(1))
        table = {"image": [f"{name}.png"] * 2, "text": ["x", "y"], "id": [f"{name}1", f"{name}2"]}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    cut(tmp_path / "b.parquet", 0.5)
    pairs = read(str(tmp_path / "*.parquet"))
    assert set(pairs) == {"a1", "a2", "b", "c1", "c2"} and isinstance(pairs["b"], BadPair)
    assert "b.parquet is damaged or cut short after 0 pairs" in pairs["b"].error
    data = PairDataModule(source=str(tmp_path / "*.parquet"))
    data.setup("predict")
    assert data.count == 5


def test_a_pair_of_a_shard_that_cannot_be_parsed_or_lacks_a_file_is_bad_alone(tmp_path: Path):
    files = {"1.png": png(1), "1.txt": b"one", "2.png": png(2), "2.txt": b"caf\xe9", "3.txt": b"three"}
    files |= {"4.png": png(4), "4.json": b"[" * 100_000, "4.txt": b"four", "5.png": png(5), "5.txt": b"five"}
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        device = tarfile.TarInfo("6.png")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    pairs = read(str(tmp_path / "s.tar"))
    assert [name for name, pair in pairs.items() if isinstance(pair, Pair)] == ["s-1", "s-5"]
    assert {"s-2", "s-3", "s-4"} <= set(pairs) and "UTF-8" in pairs["s-2"].error and "recursion" in pairs["s-4"].error


class Data:
    """A split as `datasets` gives it, of rows whose number may be written somewhere."""

    num_shards, features = 3, None

    def __init__(self, rows: list[dict], known: int | None = None, split: str | None = "train") -> None:
        self.all, self.split = rows, split
        self.info = SimpleNamespace(
            splits={"train": SimpleNamespace(num_examples=known)} if known is not None else None
        )

    def __iter__(self):
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def iter(self, batch_size: int):
        for start in range(0, len(self.all), batch_size):
            rows = self.all[start : start + batch_size]
            yield {name: [row[name] for row in rows] for name in rows[0]}

    def shard(self, count: int, index: int) -> Data:
        return Data(self.all[index::count])


def rows(count: int, **more: object) -> list[dict]:
    return [{"image": f"{i}.png", "text": f"text {i}", **more} for i in range(count)]


def given(monkeypatch, **splits: Data) -> list:
    asked: list = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: asked.append((names, options)) or splits)
    return asked


def test_rows_are_streamed_in_order_and_named_by_their_number_or_shard(monkeypatch):
    asked = given(monkeypatch, train=Data(rows(35)))
    pairs = list(HuggingFace("a/b").references())
    assert [(p.id, p.image, p.text, p.place) for p in pairs] == [
        (UNNAMED, f"{i}.png", f"text {i}", f"row {i + 1} of a/b") for i in range(35)
    ]
    assert asked == [(("a/b", None), {"split": None, "streaming": True})] and HuggingFace("a/b").holds_images
    stored = rows(1, __url__="x/s-1.tar", __key__="in/7")
    stored[0]["image"] = {"bytes": b"PNG", "path": "7.png"}
    for columns, more, id in ((Columns(), {}, "s-1-in-7"), (Columns(id="key"), {"key": 5}, "5")):
        given(monkeypatch, train=Data([stored[0] | more]))
        (pair,) = HuggingFace("a/b", columns=columns).references()
        assert (pair.id, pair.place, pair.image) == (id, "in/7 of x/s-1.tar", StoredImage("x/s-1.tar/7.png", b"PNG"))


def test_the_number_of_rows_is_told_where_it_is_written_or_all_are_there(monkeypatch):
    for data, streaming, count in (
        (Data(rows(3), 7), True, 7), (Data(rows(3), 0), True, None), (Data(rows(3)), True, None),
        (Data(rows(3), 7, None), True, None), (Data(rows(3), 7), False, 3),
    ):  # fmt: skip
        asked = given(monkeypatch, train=data)
        source = HuggingFace("a/b", streaming=streaming)
        assert source.count() == source.count() == count
        assert len(asked) == 1 and asked[0][1]["streaming"] is streaming  # it is opened once


def test_processes_share_files_where_rows_have_ids_and_are_streamed(monkeypatch):
    named = rows(3, id=1)
    for i, row in enumerate(named):
        row["id"] = i
    given(monkeypatch, train=Data(named))
    source = HuggingFace("a/b", "train", "en", Columns(id="id"))
    assert [[pair.id for pair in source.part(i, 2)] for i in range(2)] == [["0", "2"], ["1"]]
    assert source.part(0, 3) is not None and source.part(0, 4) is None
    part = source.part(0, 3)
    assert (part.path, part.split, part.subset, part.columns) == ("a/b", "train", "en", source.columns)
    assert HuggingFace("a/b", streaming=False).part(0, 2) is None
    given(monkeypatch, train=Data(rows(3)))
    assert HuggingFace("a/b").part(0, 2) is None


def test_the_only_split_need_not_be_named_and_another_is_refused(monkeypatch):
    given(monkeypatch, only=Data(rows(1)))
    assert len(list(HuggingFace("a/b").references())) == 1
    for split, splits, listed in (
        ("x", {"only": 1}, "only"),
        (None, {"b": 1, "a": 1}, "b, a"),
        ("c", {"b": 1, "a": 1}, "b, a"),
    ):
        given(monkeypatch, **{name: Data(rows(1)) for name in splits})
        with pytest.raises(ValueError) as said:
            HuggingFace("a/b", split).count()
        first = next(iter(splits))
        assert str(said.value) == (
            f"Expected a split of a/b ({listed}) but got {split}. "
            f"Remedy: hf:a/b:{first}, or the `split` of HuggingFace."
        )


def test_images_are_not_decoded_and_other_columns_stay_as_they_are(monkeypatch):
    cast = []

    class Typed(Data):
        features = {"image": datasets.Image(), "text": datasets.Value("string")}  # noqa: RUF012

        def cast_column(self, name, feature):
            cast.append((name, feature.decode))
            return self

        def __iter__(self):
            pytest.fail("a row is read to learn the columns")

    given(monkeypatch, train=Typed(rows(1)))
    assert [pair.text for pair in HuggingFace("a/b").references()] == ["text 0"] and cast == [("image", False)]


def test_what_goes_wrong_is_said_in_one_line_of_its_first_300_characters(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no\n" + "x" * 400)

    monkeypatch.setattr(datasets, "load_dataset", fail)
    reason = f"OSError: no {'x' * 297}. Remedy: correct the name; hub names need the network unless"
    with pytest.raises(ValueError, match=rf"^Expected a data set but got a/b: {reason}"):
        HuggingFace("a/b").count()
    broken = Data(rows(1))
    broken.iter = lambda batch_size: (fail() for _ in range(1))
    given(monkeypatch, train=broken)
    with pytest.raises(ValueError, match=rf"^Expected readable rows in a/b but got: {reason}"):
        list(HuggingFace("a/b").references())
