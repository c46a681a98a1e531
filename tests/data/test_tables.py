import json
from pathlib import Path

import pytest

from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.data.tables import LARGEST_CELL, Table, rows_of


def saved(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_rows_are_counted_by_their_lines_and_filled_up_where_cells_are_missing(tmp_path: Path):
    text = '\n\nimage,text,id\r\na.png,"a ""big"", brown\ncat",1\r\n\r\nb.png\r\nc.png,,3\n'
    rows = list(rows_of(saved(tmp_path / "a.CSV", "\ufeff" + text)))
    assert rows == [
        (5, {"image": "a.png", "text": 'a "big", brown\ncat', "id": "1"}),
        (7, {"image": "b.png", "text": "", "id": ""}),
        (8, {"image": "c.png", "text": "", "id": "3"}),
    ]
    assert list(rows_of(saved(tmp_path / "a.tsv", "image\ttext\na.png\ta cat, sitting\n"))) == [
        (2, {"image": "a.png", "text": "a cat, sitting"})
    ]
    assert list(rows_of(saved(tmp_path / "a.jsonl", '\n{"a": [1]}\n \n{"b": null}'))) == [
        (2, {"a": [1]}),
        (4, {"b": None}),
    ]
    assert list(rows_of(saved(tmp_path / "e.csv", ""))) == []


def test_pairs_are_those_of_the_rows_with_their_place_and_folder(tmp_path: Path):
    path = saved(tmp_path / "a.csv", "path,caption,id\na.png,a cat,x\n\nb.png,a dog,y\n")
    source = Table(path, Columns("path", "caption"))
    assert list(source.references()) == [
        PairReference("x", f"{tmp_path}/a.png", "a cat", place=f"line 2 of {path}"),
        PairReference("y", f"{tmp_path}/b.png", "a dog", place=f"line 4 of {path}"),
    ]
    assert source.count() == 2 and not source.holds_images and not source.fixed


def test_every_line_of_json_is_looked_at_before_it_is_counted(tmp_path: Path):
    line = json.dumps({"image": "a.png", "text": "a cat"}) + "\n"
    assert Table(saved(tmp_path / "a.jsonl", line * 3)).count() == 3
    with pytest.raises(ValueError, match="a column 'text' in line 4 of "):
        Table(saved(tmp_path / "a.jsonl", line * 3 + '{"image": "a.png"}')).count()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_table_without_pairs_or_a_file_is_refused(name: str, tmp_path: Path):
    path = saved(tmp_path / name, "image,text\n" if name == "a.csv" else "\n")
    for use in (Table.count, lambda source: list(source.references())):
        with pytest.raises((ValueError, StopIteration)) as said:
            use(Table(path))
        assert str(said.value) == f"Expected pairs in {path} but got none. Remedy: a header and one pair a line."
    with pytest.raises(
        ValueError, match=r"file or folder of pairs but got nowhere.csv, which does not exist. Remedy: "
    ):
        Table("nowhere.csv")


@pytest.mark.parametrize(
    ("line", "reason"),
    [("a.png,a cat, sitting", "more cells than columns"), ('a.png,"a"cat', "',' expected after '\"'"),
     ('a.png,"open', "unexpected end of data")],
)  # fmt: skip
def test_a_line_that_does_not_fit_is_named(line: str, reason: str, tmp_path: Path):
    path = saved(tmp_path / "a.csv", f"image,text\na.png,fine\n{line}\n")
    with pytest.raises(ValueError) as said:
        list(rows_of(path))
    assert str(said.value) == (
        f"Expected one cell a column in line 3 of {path} but got {reason}. "
        "Remedy: put a text with separators or quotes in double quotes, and double those inside."
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": }', "'Expecting value at character 7'"),
        ("[1, 2]", "[1, 2]"),
        ("3", "3"),
        (json.dumps("x" * 99), "'" + "x" * 79),
    ],
)
def test_a_line_that_is_no_object_is_named(line: str, reason: str, tmp_path: Path):
    path = saved(tmp_path / "a.jsonl", f'{{"a": 1}}\n\n{line}\n')
    with pytest.raises(ValueError) as said:
        list(rows_of(path))
    assert str(said.value) == f"Expected a JSON object in line 3 of {path} but got {reason}. Remedy: one object a line."


def test_a_cell_may_be_longer_than_any_caption(tmp_path: Path):
    import csv

    before = csv.field_size_limit(131_072)
    try:
        path = saved(tmp_path / "a.csv", f"image,text\na.png,{'x' * 200_000}\n")
        assert len(next(rows_of(path))[1]["text"]) == 200_000
        assert csv.field_size_limit() == LARGEST_CELL == 2_147_483_647  # the largest that Windows takes
    finally:
        csv.field_size_limit(before)


def test_what_is_not_utf8_is_named(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"image,text\na.png,caf\xe9\n")
    with pytest.raises(ValueError, match=r"^Expected text in UTF-8 but got .*a\.csv\. Remedy: save it as UTF-8\.$"):
        list(rows_of(tmp_path / "a.csv"))
