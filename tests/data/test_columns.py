"""Cells of a row become a pair, whatever kind of table they come from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.data.columns import CellTruth, Columns
from m2ib_lightning.data.ids import UNNAMED
from m2ib_lightning.data.images import StoredImage
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.types import Asked, Truth

PLAIN = Columns("image", "text", "", "", "", "", "", "")


def test_columns_are_found_by_their_names_aliases_and_first_parts_and_need_not_all_exist():
    assert Columns().found(["text", "image", "more"], "x") == PLAIN
    assert Columns().found(list(Columns()), "x") == Columns()
    for image in ("file_name", "jpg", "jpeg", "png", "webp", "tif", "dcm"):
        assert Columns().found([image, "txt"], "x") == PLAIN._replace(image=image, text="txt")
    assert Columns().found(["jpg", "image", "txt", "text"], "x") == PLAIN
    inside = Columns(text="json.caption", boxes="json.a.b")
    assert inside.found(["json", "image"], "x") == PLAIN._replace(text="json.caption", boxes="json.a.b")
    assert Columns(text="a.b").found(["a.b", "image"], "x").text == "a.b"


@pytest.mark.parametrize(
    ("columns", "present", "missing"),
    [
        (Columns(), ["image", "caption"], "text"),
        (Columns(), ["picture", "text"], "image"),
        (Columns(image="path"), ["image", "png", "text"], "path"),
        (Columns(id="key"), ["image", "text", "id"], "key"),
        (Columns(boxes="json.boxes"), ["image", "text", "boxes"], "json.boxes"),
        (Columns(against="foil"), ["image", "text"], "foil"),
    ],
)
def test_a_column_that_was_named_or_must_be_there_is_missed(columns: Columns, present: list[str], missing: str):
    (key,) = [key for key, name in columns._asdict().items() if name == missing]
    with pytest.raises(ValueError) as said:
        columns.found(present, "line 2 of a.csv")
    assert str(said.value) == (
        f"Expected a column {missing!r} in line 2 of a.csv but got {', '.join(map(repr, present))}. "
        f"Remedy: name one of those with {key}_column."
    )


def test_a_row_is_a_pair_with_everything_that_its_cells_say():
    row = {"image": "in/cat.png", "text": "a cat", "id": 12, "boxes": "[[1, 2, 3, 4]]", "mask": None, "spans": "",
           "phrases": "cat; dog", "against": "a dog"}  # fmt: skip
    truth = CellTruth(Columns(), "[[1, 2, 3, 4]]", None, "", "folder", "line 2")
    asked = Asked("cat; dog", "a dog")
    expected = PairReference("12", "folder/in/cat.png", "a cat", truth, "line 2", asked)
    assert Columns().reference(row, "folder", "line 2") == expected
    empty = Columns().reference(dict.fromkeys(Columns(), None), "folder", "line 3")
    assert empty == PairReference("", "", "", Truth(), "line 3", Asked())
    assert PLAIN.reference({"image": "/cat.png", "text": 7}, "folder", "x")[:4] == (UNNAMED, "/cat.png", "7", Truth())
    for given in ({"mask": "m.png"}, {"spans": [[0, 1]]}, {"boxes": [[1, 2, 3, 4]]}):
        told = Columns().reference(dict.fromkeys(Columns(), "") | given, "folder", "x").truth
        assert [told.boxes, told.mask, told.spans] == [given.get(name, "") for name in ("boxes", "mask", "spans")]


def test_a_cell_inside_of_another_is_reached_by_dots_and_a_name_with_dots_comes_first():
    row = {"image": "a.png", "json": {"caption": {"en": "a cat"}, "boxes": [[0, 0, 1, 1]]}}
    columns = PLAIN._replace(
        text="json.caption.en", boxes="json.boxes", phrases="json.none.at", against="json.caption.de"
    )
    found = columns.reference(row, "", "row 1")
    assert (found.text, found.truth.boxes, found.asked) == ("a cat", [[0, 0, 1, 1]], Asked())
    assert columns.reference(row | {"json.caption.en": "a dog"}, "", "row 1").text == "a dog"
    for name in ("json.caption.de", "json.caption.en.more", "gone"):
        with pytest.raises(
            ValueError, match=f"^Expected a column '{name}' in row 1 but got 'image', 'json'. Remedy: .*text_"
        ):
            PLAIN._replace(text=name).reference(row, "", "row 1")


@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}, b"a"])
@pytest.mark.parametrize("name", ["text", "id"])
def test_a_cell_that_is_no_text_is_refused(name: str, value: object):
    row = {"image": "a.png", "text": "x", "id": "y"} | {name: value}
    with pytest.raises(ValueError, match=f"^Expected a string in '{name}', row 1, but got .* Remedy: one string"):
        PLAIN._replace(id="id").reference(row, "", "row 1")


def test_a_picture_is_a_path_or_the_bytes_of_a_file_with_its_path():
    def image(cell: object) -> object:
        return PLAIN.reference({"image": cell, "text": "x"}, "folder", "row 1").image

    assert image(b"PNG") == image({"bytes": b"PNG", "path": None}) == StoredImage("row 1", b"PNG")
    assert image({"bytes": b"PNG", "path": "a.png"}) == StoredImage("a.png", b"PNG")
    assert image({"bytes": b"", "path": "a.png"}) == StoredImage("a.png", b"")
    assert image({"bytes": None, "path": "a.png"}) == image("a.png") == "folder/a.png"
    assert image("") == image(None) == image({"bytes": None, "path": None}) == ""
    for other in ({"path": "a.png"}, {"bytes": None, "path": "a.png", "more": 1}, ["a.png"], True):
        with pytest.raises(ValueError, match=r"^Expected a string in 'image', row 1, but got "):
            image(other)


def test_a_foil_is_a_caption_as_it_is_or_a_picture():
    columns = PLAIN._replace(against="against")
    row = {"image": "a.png", "text": "x"}
    for cell, against in (
        (b"PNG", StoredImage("row 1", b"PNG")),
        ({"bytes": b"PNG", "path": "b.png"}, StoredImage("b.png", b"PNG")),
        ("a dog", "a dog"),
        (None, None),
    ):
        assert columns.reference(row | {"against": cell}, "folder", "row 1").asked == Asked(None, against)


def truth(size: tuple[int, int] = (8, 6), **cells: object) -> Truth:
    given = {"boxes": None, "mask": None, "spans": None} | cells
    return CellTruth(Columns(), *given.values(), "", "row 1").read(Image.new("L", size), size, "a cat and a dog")


def test_boxes_a_mask_and_spans_are_parsed_where_they_are_wanted(tmp_path: Path):
    expected = np.zeros((6, 8), dtype=bool)
    expected[2:5, 1:3] = True
    for boxes in ([[1, 2, 3, 5]], "[[1, 2, 3, 5]]", "[1, 2, 3, 5]", [1, 2, 3, 5], ((1, 2, 3, 5),), "[[1.0, 2, 3, 5]]"):
        np.testing.assert_array_equal(truth(boxes=boxes).mask, expected)
        assert truth(boxes=boxes).spans is None
    expected[0, 7] = True
    np.testing.assert_array_equal(truth(boxes="[[1, 2, 3, 5], [7, 0, 8, 1]]").mask, expected)
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[5, 0] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    np.testing.assert_array_equal(truth(mask=str(tmp_path / "m.png")).mask, mask > 0)
    expected[5, 0] = True
    both = truth(mask=str(tmp_path / "m.png"), boxes=[[1, 2, 3, 5], [7, 0, 8, 1]], spans="[[2, 5], [12, 15]]")
    np.testing.assert_array_equal(both.mask, expected)
    assert both.spans == [(2, 5), (12, 15)] and truth(spans=[2, 5]).spans == [(2, 5)]
    assert truth(mask="", boxes="", spans="") == truth(boxes="[]") == truth() == Truth()
    assert truth(spans=[]).spans == []


@pytest.mark.parametrize(
    "boxes", ["[[1, 2, 3]]", "[[1, 2, 3, 4, 5]]", "[[0, 0, 1, NaN]]", "[[0, 0, 1]", "x", 3, [[1, 2, 3, None]], {"a": 1}]
)
def test_truth_that_is_no_list_of_numbers_is_named_with_what_it_should_be(boxes: object):
    with pytest.raises(ValueError) as said:
        truth(boxes=boxes)
    assert str(said.value) == (
        f"Expected a list of lists of 4 finite numbers in 'boxes', row 1, but got {boxes!r:.80}. "
        "Remedy: [[left, top, right, bottom], ...]."
    )
    with pytest.raises(
        ValueError, match=r"of 2 finite numbers in 'spans', row 1, .* Remedy: \[\[start, end\], \.\.\.\]"
    ):
        truth(spans="[[1, 2, 3]]")
