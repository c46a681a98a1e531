from pathlib import Path

import numpy as np
import pytest

from m2ib_lightning.data.flickr30k import EntityTruth, Flickr30kEntities, parse_sentence, read_boxes
from m2ib_lightning.types import Truth


def thing(*names: str, box: tuple[int, ...] = ()) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False))
    return (
        f"<object>{''.join(f'<name>{n}</name>' for n in names)}{f'<bndbox>{corners}</bndbox>' if box else ''}</object>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Sentences", "Annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "Sentences" / "20.txt").write_text(
        "[/EN#1/people A man] rides .\n\n[/EN#9/notvisual It] is [/EN#2 red] .\n"
    )
    (tmp_path / "Sentences" / "3.txt").write_text("Nothing at all .\n")
    things = thing("1", box=(1, 2, 10, 20)) + thing("1", "2", box=(21, 1, 30, 8)) + thing("9")
    (tmp_path / "Annotations" / "20.xml").write_text(
        f"<annotation><size><width>50</width><height>33</height></size>{things}</annotation>"
    )
    return tmp_path


def test_a_sentence_is_a_pair_with_its_phrases_and_the_lines_are_those_that_are_not_empty(folder: Path):
    first, second, third = Flickr30kEntities(str(folder), "pictures").references()
    assert first[:3] == ("20-0", "pictures/20.jpg", "A man rides .")
    assert first.truth == EntityTruth(str(folder / "Annotations" / "20.xml"), (("1", (0, 5)),))
    assert first.place == f"line 1 of {folder}/Sentences/20.txt"
    assert second[:3] == ("20-1", "pictures/20.jpg", "It is red .")
    assert second.truth.phrases == (("9", (0, 2)), ("2", (6, 9))) and second.place.startswith("line 2 of ")
    assert third[:3] == ("3-0", "pictures/3.jpg", "Nothing at all .") and third.truth.phrases == ()


def test_boxes_count_from_1_and_include_the_last_pixel(folder: Path):
    boxes, size = read_boxes(folder / "Annotations" / "20.xml")
    assert boxes == {"1": [(0, 1, 10, 20), (20, 0, 30, 8)], "2": [(20, 0, 30, 8)]} and size == (50, 33)
    for inside in ("", "<size><width>50</width><height>0</height></size>"):
        (folder / "x.xml").write_text(f"<annotation>{inside}</annotation>")
        assert read_boxes(folder / "x.xml") == ({}, None)
    for broken in ("<annotation>", f"<annotation>{thing('1', box=(1, 2))}</annotation>"):
        (folder / "x.xml").write_text(broken)
        with pytest.raises(ValueError, match=f"^Expected boxes in {folder}/x.xml but got: .* Remedy: get the file"):
            read_boxes(folder / "x.xml")


def test_the_truth_is_every_box_of_what_has_one_and_is_drawn_on_the_size_of_the_file(folder: Path):
    file = str(folder / "Annotations" / "20.xml")
    truth = EntityTruth(file, (("1", (0, 5)), ("9", (6, 8)), ("2", (9, 12)))).read("x.jpg", (100, 66), "A man at red")
    expected = np.zeros((66, 100), dtype=bool)
    expected[2:40, 0:20] = expected[0:16, 40:60] = True
    np.testing.assert_array_equal(truth.mask, expected)
    assert truth.spans == [(0, 5), (9, 12)] and [part.span for part in truth.parts] == [(0, 5), (9, 12)]
    np.testing.assert_array_equal(truth.parts[0].mask, expected)
    expected[2:40, 0:20] = False
    np.testing.assert_array_equal(truth.parts[1].mask, expected)
    assert EntityTruth(file, (("9", (0, 2)),)).read("x.jpg", (50, 33), "It is") == Truth()


def test_markup_is_taken_out_and_characters_are_counted_without_it():
    assert parse_sentence("So [/EN#12/a/b/c the, old] [/EN#0 dog] [barks] . ") == (
        "So the, old dog [barks] .",
        [("12", (3, 11)), ("0", (12, 15))],
    )
    assert parse_sentence("") == ("", [])


def test_a_split_names_its_pictures_in_its_order(folder: Path):
    (folder / "test.txt").write_text("3\n\n 20 \n")
    split = Flickr30kEntities(str(folder), "", str(folder / "test.txt"))
    assert [pair.id for pair in split.references()] == ["3-0", "20-0", "20-1"]
    for names, message in (
        ("4\n", "sentences in .*4.txt, which does not exist"),
        ("\n", r"Sentences/\*.txt in .* none"),
    ):
        (folder / "test.txt").write_text(names)
        with pytest.raises(ValueError, match=f"^Expected {message}. Remedy: "):
            list(Flickr30kEntities(str(folder), "", str(folder / "test.txt")).references())
