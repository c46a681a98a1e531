from pathlib import Path

import pytest

from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.folders import CaptionFolder
from m2ib_lightning.data.huggingface import HuggingFace
from m2ib_lightning.data.shards import Shards
from m2ib_lightning.data.sources import open_source
from m2ib_lightning.data.tables import Table

COLUMNS = Columns(text="caption")


@pytest.mark.parametrize(
    ("name", "path", "split"), [("hf:a/b", "a/b", None), ("hf:a/b:test", "a/b", "test"), ("hf:a/b:", "a/b", None)]
)
def test_the_hub_is_named_with_or_without_a_split(name: str, path: str, split: str | None):
    source = open_source(name, COLUMNS)
    assert isinstance(source, HuggingFace) and (source.path, source.split, source.columns) == (path, split, COLUMNS)


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl"])
def test_a_table_is_known_by_its_suffix(name: str, tmp_path: Path):
    (tmp_path / name).touch()
    source = open_source(tmp_path / name, COLUMNS)
    assert isinstance(source, Table) and (source.path, source.columns) == (tmp_path / name, COLUMNS)
    with pytest.raises(ValueError, match=r"nowhere.csv, which does not exist. Remedy: correct the path"):
        open_source("nowhere.csv")


@pytest.mark.parametrize("name", ["a.parquet", "a.TAR"])
def test_shards_are_known_by_their_suffix_and_may_be_many(name: str, tmp_path: Path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    source = open_source(f"{tmp_path}/*/{name}", COLUMNS)
    assert isinstance(source, Shards) and source.columns == COLUMNS
    assert source.files == [f"{tmp_path}/x/{name}", f"{tmp_path}/y/{name}"]


def test_a_folder_is_what_lies_in_it_tables_before_shards_before_data_sets_before_captions(tmp_path: Path):
    folder = tmp_path / "pairs [1]"  # which a wild card would read otherwise
    (folder / "data").mkdir(parents=True)
    assert isinstance(open_source(folder), CaptionFolder) and open_source(str(folder)).folder == folder
    (folder / "data" / "train.parquet").touch()
    source = open_source(folder, COLUMNS)
    assert isinstance(source, HuggingFace) and (source.path, source.columns) == (str(folder), COLUMNS)
    for file, kind in (("b.tar", Shards), ("a.parquet", Shards), ("metadata.jsonl", Table), ("metadata.tsv", Table),
                       ("metadata.csv", Table)):  # fmt: skip
        (folder / file).touch()
        source = open_source(folder, COLUMNS)
        assert isinstance(source, kind) and source.columns == COLUMNS
        assert (source.files if isinstance(source, Shards) else [str(source.path)]) == [str(folder / file)]


def test_what_is_none_of_these_is_named(tmp_path: Path):
    (tmp_path / "a.png").touch()
    for name, message in (
        (
            str(tmp_path / "a.png"),
            r"a file of pairs \(.csv, .tsv, .jsonl, .parquet, .tar\) or a folder but got .*a.png. ",
        ),
        (
            "no/such",
            "a file or folder of pairs but got no/such, which does not exist. .* or write hf:no/such for a data ",
        ),
    ):
        with pytest.raises(ValueError, match=f"^Expected {message}"):
            open_source(name)
