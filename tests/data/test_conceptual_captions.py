import zlib
from pathlib import Path

import pytest

from m2ib_lightning.data.conceptual_captions import ConceptualCaptions
from m2ib_lightning.data.pairs import PairReference

URLS = ("http://a.b/c/cat.jpg", "http://a.b/dog.png?x=1")


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "cc.tsv").write_bytes(f'\ufeffa "cat"\t{URLS[0]}\r\na \u2028 dog\t{URLS[1]}\n'.encode())
    return str(tmp_path / "cc.tsv")


def test_a_line_is_a_pair_with_the_picture_of_its_number(file):
    source = ConceptualCaptions(file, "pictures")
    assert list(source.references()) == [
        PairReference("000000000", "pictures/000000000.jpg", 'a "cat"', place=f"line 1 of {file}"),
        PairReference("000000001", "pictures/000000001.jpg", "a \u2028 dog", place=f"line 2 of {file}"),
    ]
    assert source.count() == 2


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("{url_name}", ["cat.jpg", "dog.png?x=1"]),
        ("{crc32}.webp", [f"{zlib.crc32(url.encode())}.webp" for url in URLS]),
        ("{index}-{url_name}", ["0-cat.jpg", "1-dog.png?x=1"]),
    ],
)
def test_a_picture_is_called_as_it_was_saved(file, name, names):
    assert [pair.image for pair in ConceptualCaptions(file, "", name).references()] == names


def test_pairs_without_a_picture_are_left_out_where_that_is_wanted(file, tmp_path: Path):
    (tmp_path / "000000001.jpg").touch()
    source = ConceptualCaptions(file, str(tmp_path), missing=False)
    assert [pair.id for pair in source.references()] == ["000000001"] and source.count() is None


def test_what_is_wrong_is_named(file, tmp_path: Path):
    for lines, number, got in (("a\tb\nno url\n", 2, "'no url"), ("a\tb\tc\n", 1, r"'a\\tb\\tc")):
        Path(file).write_text(lines)
        with pytest.raises(ValueError, match=rf"a tab and a URL in line {number} of {file} but got {got}.*Remedy: "):
            ConceptualCaptions(file, "").count()
    for pattern in ("{number}.jpg", "{index", "{}", "{index:x.jpg}"):
        with pytest.raises(ValueError, match=r"^Expected `file_name` of {index}, {crc32} and {url_name} but got"):
            ConceptualCaptions(file, "", pattern)
    with pytest.raises(
        ValueError, match=r"a file of captions but nowhere.tsv does not exist. Remedy: correct the path"
    ):
        ConceptualCaptions("nowhere.tsv", "")
