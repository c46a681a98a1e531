"""Files and folders of pairs become references, and every fault is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2ib_lightning.data import Columns, open_source
from m2ib_lightning.data.ids import UNNAMED
from m2ib_lightning.data.images import StoredImage, fingerprint
from m2ib_lightning.data.pairs import (
    GivenPairs,
    PairReference,
    PairSource,
    Reference,
    check_all,
    list_pairs,
    make_references,
    read_or_record,
    read_pair,
)
from m2ib_lightning.types import Asked, BadPair, Truth

ROWS = [("cat.png", "a cat"), ("dog.png", 'a "big", brown dog')]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images."""
    for name in ("cat.png", "dog.png"):
        Image.new("RGB", (4, 3), "red").save(tmp_path / name)
    return tmp_path


def read_source(source: str | Path, **columns: str) -> list[Reference]:
    """All pairs of a source."""
    return list_pairs(open_source(source, Columns(**columns)))


def fields(references: list[Reference]) -> list[tuple]:
    """What a pair is, without where it was written."""
    return [(r.id, r.image, r.text) for r in references]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def refuse(pattern: str, source: Path, **columns: str) -> None:
    """Expect a source to be refused in one line."""
    with pytest.raises(ValueError, match=rf"^Expected .*{pattern}.* Remedy: .*$") as caught:
        read_source(source, **columns)
    assert "\n" not in str(caught.value)


CSV = 'image,text\ncat.png,a cat\ndog.png,"a ""big"", brown dog"\n'
TSV = 'image\ttext\ncat.png\ta cat\ndog.png\ta "big", brown dog\n'
JSONL = "".join(json.dumps({"image": image, "text": text}) + "\n" for image, text in ROWS)


@pytest.mark.parametrize("windows", [False, True], ids=["plain", "windows"])
@pytest.mark.parametrize(("name", "text"), [("a.csv", CSV), ("a.tsv", TSV), ("a.jsonl", JSONL), ("A.CSV", CSV)])
def test_tables_are_read_with_paths_relative_to_their_folder(folder: Path, name: str, text: str, windows: bool):
    if windows:
        text = "\ufeff" + text.replace("\n", "\r\n") + "\r\n"
    references = read_source(str(write(folder / name, text)))
    assert fields(references) == [
        ("cat", str(folder / "cat.png"), "a cat"),
        ("dog", str(folder / "dog.png"), 'a "big", brown dog'),
    ]
    check_all(references)
    pair = read_pair(references[1])
    assert (pair.id, pair.text, pair.source) == ("dog", ROWS[1][1], str(folder / "dog.png"))
    assert (pair.image.mode, pair.image.size) == ("RGB", (4, 3))


def test_columns_are_mapped_by_name_and_absolute_paths_stay(folder: Path):
    table = write(folder / "a.csv", f"key,path,caption,more\n7,{folder}/cat.png,a cat,x\n")
    references = read_source(table, image="path", text="caption", id="key")
    assert fields(references) == [("7", str(folder / "cat.png"), "a cat")]


def test_ids_of_the_file_are_kept(folder: Path):
    table = write(folder / "a.jsonl", '{"image": "cat.png", "text": "a cat", "id": 12}\n')
    assert read_source(table)[0].id == "12"


def test_ids_are_made_from_the_image_names_and_counted_when_they_repeat(folder: Path):
    images = ["cat.png", "cat.png", "cat-2.png", "Cat.jpg", "x/ä b?.png", "...png", "cat.png"]
    table = write(folder / "a.csv", "image,text\n" + "".join(f"{image},a\n" for image in images))
    ids = [reference.id for reference in read_source(table)]
    assert ids == ["cat", "cat-2", "cat-2-2", "Cat-3", "ä-b", "image", "cat-4"]


@given(st.lists(st.text(st.sampled_from("aA-2./ ?é猫"), max_size=6), max_size=12), st.integers(0, 12))
def test_made_ids_are_distinct_file_names_and_stay_when_pairs_are_added(names: list[str], count: int):
    ids = [reference.id for reference in make_references([*names, "end"], [*names, "end"])]
    assert len({name.casefold() for name in ids}) == len(ids)
    assert all(name.strip(".") and not set(name) & set('/\\:*?"<>| ') for name in ids)
    kept = [*names, "end"][: count + 1]
    assert [reference.id for reference in make_references(kept, kept)] == ids[: count + 1]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_with_metadata_is_read_by_the_imagefolder_convention(folder: Path, name: str):
    text = CSV if name.endswith("csv") else JSONL
    write(folder / name, text.replace("image", "file_name", 1 if name.endswith("csv") else 2))
    assert [r[1:] for r in fields(read_source(folder))] == [(str(folder / i), t) for i, t in ROWS]


def test_a_folder_of_images_has_its_captions_beside_them(folder: Path):
    (folder / "more").mkdir()
    Image.new("RGB", (4, 3)).save(folder / "more" / "cat.JPG", "JPEG")
    write(folder / "cat.txt", "\ufeffa cat\r\n")
    write(folder / "dog.txt", "a dog")
    write(folder / "more" / "cat.txt", "another cat")
    write(folder / "README.txt", "not a caption")
    references = read_source(folder)
    assert [(reference.id, reference.text) for reference in references] == [
        ("cat", "a cat"),
        ("dog", "a dog"),
        ("more-cat", "another cat"),
    ]
    check_all(references)


def test_an_image_of_a_folder_without_its_caption_is_named(folder: Path):
    write(folder / "cat.txt", "a cat")
    with pytest.raises(ValueError, match=r"Pair 2 of 2, 'dog': Expected a caption but got an empty text. Remedy: "):
        check_all(read_source(folder))


def test_a_folder_without_images_or_captions_is_refused(folder: Path, tmp_path_factory):
    refuse("got 2 images and no captions", folder)
    refuse("got 0 images and no captions", tmp_path_factory.mktemp("empty"))


def test_a_missing_or_unknown_source_is_refused(folder: Path):
    refuse("a file or folder of pairs but got .*nowhere.csv, which does not exist", folder / "nowhere.csv")
    refuse(r"\(\.csv, \.tsv, \.jsonl, \.parquet, \.tar\) or a folder but got .*cat.png", folder / "cat.png")


@pytest.mark.parametrize("text", ["", "\n\n", "image,text\n"])
def test_a_file_without_pairs_is_refused(folder: Path, text: str):
    refuse("pairs in .*a.csv but got none", write(folder / "a.csv", text))
    refuse("pairs in .*a.jsonl but got none", write(folder / "a.jsonl", text.removeprefix("image,text")))


def test_a_missing_column_is_named_with_those_that_are_there(folder: Path):
    table = write(folder / "a.csv", "image,caption\ncat.png,a cat\n")
    refuse(r"a column 'text' in line 2 of .*a.csv but got 'image', 'caption'", table)
    refuse("a column 'path'", table, image="path", text="caption")
    refuse("a column 'key'", table, id="key", text="caption")
    refuse("'text' in line 3 of .* but got 'image'", write(folder / "a.jsonl", JSONL + '{"image": "cat.png"}\n'))


def test_doubled_ids_are_refused_with_their_lines(folder: Path):
    table = write(folder / "a.csv", "id,image,text\n1,cat.png,a\n2,cat.png,a\n1,dog.png,b\n")
    refuse("distinct ids but got '1' again in line 4 of .*a.csv", table)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a:b", "x" * 201, "猫" * 67])
def test_ids_that_can_be_no_file_name_are_refused(folder: Path, name: str):
    refuse(
        "an id that can be a file name but got .* in line 2", write(folder / "a.csv", f"id,image,text\n{name},i,t\n")
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{'image': 1}", "Expecting property name .* at character 2"),
        ('{"image": "cat.png", ', "at character"),
        ('["cat.png", "a cat"]', "cat.png"),
        ('{"image": "cat.png", "text": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ("[" * 100_000, "recursion"),
        ("3", "3"),
    ],
)
def test_a_malformed_json_line_is_named_by_its_number(folder: Path, line: str, reason: str):
    refuse(f"a JSON object in line 4 of .*a.jsonl but got .*{reason}", write(folder / "a.jsonl", f"{JSONL}\n{line}\n"))


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, True])
def test_a_json_text_that_is_no_string_is_refused(folder: Path, value):
    table = write(folder / "a.jsonl", json.dumps({"image": "cat.png", "text": value}))
    refuse("a string in 'text', line 1 of .*a.jsonl, but got", table)


def test_cells_that_do_not_fit_the_columns_are_refused_by_line(folder: Path):
    refuse(
        "line 2 of .* but got more cells than columns",
        write(folder / "a.csv", "image,text\ncat.png,a cat, sitting\n"),
    )
    refuse("line 3 of .*", write(folder / "a.csv", 'image,text\ncat.png,a\ndog.png,"never closed\n'))


def test_text_that_is_not_utf8_is_refused(folder: Path):
    (folder / "a.csv").write_bytes("image,text\ncat.png,a cat\n".encode("utf-16"))
    refuse("text in UTF-8", folder / "a.csv")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("gone.png,a cat", "'gone': .*gone.png', which does not exist"),
        ("cat.png,", "'cat-2': .*an empty text"),
        ("cat.png, \t ", "'cat-2': .*an empty text"),
        ("cat.png", "'cat-2': .*an empty text"),
        (",a cat", "'image': .*'', which does not exist"),
        ("a.csv,a cat", "'a': .*a.csv, which is none"),
    ],
)
def test_a_bad_pair_is_named_by_row_and_the_others_can_still_be_read(folder: Path, line: str, reason: str):
    references = read_source(write(folder / "a.csv", f"image,text\ncat.png,a cat\n{line}\ndog.png,a dog\n"))
    with pytest.raises(ValueError, match=rf"^Pair 2 of 3, {reason}.* Remedy: .*$"):
        check_all(references)
    with pytest.raises(ValueError, match="Remedy: "):
        read_pair(references[1])
    assert [read_pair(references[row]).text for row in (0, 2)] == ["a cat", "a dog"]


def test_images_and_texts_pair_up_or_a_single_one_goes_with_all():
    image = Image.new("L", (2, 2))
    assert fields(make_references("cat.png", "a cat")) == [("cat", "cat.png", "a cat")]
    assert [r[1:] for r in fields(make_references(["a.png", Path("b.png")], ["x", "y"]))] == [
        ("a.png", "x"),
        (Path("b.png"), "y"),
    ]
    assert fields(make_references(image, ["x", "y"])) == [("image", image, "x"), ("image-2", image, "y")]
    assert fields(make_references(["a.png", "b.png"], "x")) == [("a", "a.png", "x"), ("b", "b.png", "x")]


@pytest.mark.parametrize(("images", "texts"), [(2, 3), (3, 2), (0, 1), (1, 0), (0, 0)])
def test_numbers_of_images_and_texts_that_do_not_fit_are_refused(images: int, texts: int):
    with pytest.raises(ValueError, match=f"got {images} images and {texts} texts. Remedy: "):
        make_references(["a.png"] * images, ["a"] * texts)


def test_a_picture_in_memory_has_no_source():
    pair = read_pair(PairReference("a", Image.new("L", (2, 2)), "x"))
    assert (pair.source, pair.image.mode) == ("", "RGB")


def test_a_text_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"Expected a text but got int. Remedy: "):
        read_pair(PairReference("a", Image.new("L", (2, 2)), 3))  # type: ignore[arg-type]


def test_every_picture_in_memory_is_looked_at_and_a_file_of_several_pairs_once(folder, monkeypatch):
    good, long = Image.new("RGB", (4, 3)), Image.new("RGB", (3000, 1))
    monkeypatch.setattr("m2ib_lightning.data.pairs.check_image", lambda image, most: looked_at.append(image))
    looked_at: list[object] = []
    file = folder / "cat.png"
    check_all(make_references([good, file, long, file], ["a", "b", "c", "d"]))
    assert looked_at == [good, file, long]


class Given(PairSource):
    """These references, of which nothing else is known."""

    def __init__(self, *pairs) -> None:
        self.pairs = pairs

    def references(self):
        return iter(self.pairs)


def test_a_source_of_a_format_of_its_own_says_nothing_that_it_does_not_know():
    source = Given(PairReference("a", "a.png", "x"))
    assert (source.count(), source.part(0, 1), source.holds_images, source.fixed) == (None, None, False, False)
    assert list(source) == [PairReference("a", "a.png", "x")] and PairReference("a", "", "x")[3:] == (
        Truth(),
        "",
        Asked(),
    )


def test_pairs_with_ids_that_cannot_be_are_bad_and_named_by_their_place_or_number():
    image = Image.new("L", (2, 2))
    half = BadPair("in/a", "caf\ud83d", "x.png", "gone")
    pairs = [
        PairReference("a", "a.png", "one"),
        PairReference("a", "b.png", "two", place="line 7 of x"),
        PairReference("a?", image, "three"),
        half,
        PairReference(UNNAMED, image, "four"),
        PairReference(UNNAMED, StoredImage("s.tar/in/c.d.png", b""), "five"),
        PairReference("in-a", Path("q.png"), "six"),
    ]
    first, second, third, fourth, fifth, sixth, seventh = Given(*pairs)
    assert first == pairs[0]
    assert second[:3] == ("a-pair-2", "two", "b.png") and "but got 'a' again in line 7 of x. " in second.error
    assert third[:3] == ("a-pair-3", "three", "") and "but got 'a?' in pair 3. " in third.error
    assert fourth == BadPair("in-a", r"caf\ud83d", "x.png", "gone")
    assert (fifth.id, sixth.id) == ("image", "c.d")
    assert seventh[:3] == ("in-a-pair-7", "six", "q.png") and "again in pair 7. " in seventh.error
    with pytest.raises(ValueError, match=r"^gone$"):
        list_pairs(Given(half))


def test_a_pair_is_read_with_its_truth_or_recorded_without_unless_it_is_asked_otherwise(folder: Path):
    told = []

    def known(image, size, text) -> Truth:
        told.append((image, size, text))
        return Truth(spans=[(0, 1)])

    path = str(folder / "cat.png")
    reference = PairReference("a", path, "a cat", SimpleNamespace(read=known), asked=Asked("cat"))
    pair = read_pair(reference)
    assert told == [(path, (4, 3), "a cat")] and pair.truth == Truth(spans=[(0, 1)]) and pair.asked == Asked([(2, 5)])
    assert (pair.source, pair.fingerprint) == (path, fingerprint(path))
    assert read_pair(reference, False).truth == read_or_record(reference).truth == Truth() and len(told) == 1
    assert read_or_record(reference, True).truth == Truth(spans=[(0, 1)])
    given = Truth(spans=[(2, 5)])
    assert read_pair(reference._replace(truth=given)).truth is given
    assert read_pair(reference._replace(truth=given), False).truth == Truth()
    bad = BadPair("b", "", "", "gone")
    assert read_or_record(bad) is bad
    for wrong, reason in (({"text": 3}, "Expected a text but got int. "), ({"asked": Asked("whale")}, "whale"),
                          ({"image": "a\nb"}, "which does not exist")):  # fmt: skip
        found = read_or_record(reference._replace(**wrong))
        assert isinstance(found, BadPair) and reason in found.error and "\n" not in found.error
    assert "at most 11 pixels" in read_or_record(reference, max_pixels=11).error


@pytest.mark.parametrize("length", [131_072, 131_073])
def test_a_caption_has_at_most_131072_characters(length: int):
    reference = PairReference("a", Image.new("L", (2, 2)), "x" * length)
    found = read_or_record(reference)
    assert isinstance(found, BadPair) is (length > 131_072)
    if length > 131_072:
        assert found.error == ("Expected a caption of at most 131,072 characters but got 131,073. Remedy: shorten it.")


def test_what_cannot_be_read_is_named_by_its_row_from_1_and_each_file_is_looked_at_once(folder: Path, monkeypatch):
    looked_at = []
    monkeypatch.setattr("m2ib_lightning.data.pairs.check_image", lambda image, most: looked_at.append((image, most)))
    pairs = [PairReference(str(i), image, "x") for i, image in enumerate([folder / "a", str(folder / "a"), "b"])]
    check_all(pairs, 9)
    assert looked_at == [(folder / "a", 9), ("b", 9)]
    with pytest.raises(ValueError, match=r"^Pair 4 of 4, '9': Expected a caption but got an empty text. Remedy: "):
        check_all([*pairs, PairReference("9", "b", " ")])
    with pytest.raises(
        ValueError, match=r"^Pair 1 of 1, '9': Expected Unicode but got half of a character in 'a\\ud83d'"
    ):
        check_all([PairReference("9", "b", "a\ud83d")])


def test_pairs_of_one_and_many_are_counted():
    assert GivenPairs(["a.png", "b.png"], "x").count() == GivenPairs("a.png", ["x", "y"]).count() == 2
    assert [pair.image for pair in GivenPairs("a.png", ["x", "y", "z"]).references()] == ["a.png"] * 3
    assert GivenPairs(Path("a.png"), "x").count() == 1
