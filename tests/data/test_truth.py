"""Boxes, outlines and masks of a file become the pixels of the picture that was read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.data import MaskFile, PairDataModule, PairReference, Polygon, RunLengths, TruthReference, read_pair
from m2ib_lightning.data.images import MAX_PIXELS
from m2ib_lightning.data.truth import draw
from m2ib_lightning.types import Truth


def paint(mask: np.ndarray) -> Image.Image:
    """A picture that is red where the mask is, and blue elsewhere."""
    return Image.fromarray(np.where(mask[..., None], [255, 0, 0], [0, 0, 255]).astype(np.uint8))


def test_boxes_cover_the_pixels_whose_centres_they_hold_and_at_least_one():
    assert draw((1, 1, 3, 2), (4, 3)).astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert draw((0.4, 0, 1.6, 3), (4, 3)).any(0).tolist() == [True, True, False, False]
    assert draw((0.6, 0, 1.4, 3), (4, 3)).any(0).tolist() == [True, False, False, False]  # the pixel it begins in
    assert draw((1.1, 0, 1.4, 3), (4, 3)).any(0).tolist() == [False, True, False, False]
    assert draw((-1, 0, 0.1, 3), (4, 3)).any(0).tolist() == [True, False, False, False]
    assert draw((-5, -5, 99, 99), (4, 3)).all()
    assert draw((3.9, 2.9, 4.5, 3.5), (4, 3)).sum() == 1


@pytest.mark.parametrize("box", [(2, 0, 1, 3), (1, 1, 1, 2), (4, 0, 5, 1), (0, 3, 1, 4), (-3, 0, 0, 1)])
def test_boxes_that_hold_nothing_are_refused(box):
    with pytest.raises(ValueError, match=r"within 4 x 3 pixels but got .* Remedy: "):
        draw(box, (4, 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [lambda bad: (0, 0, bad, 1), lambda bad: Polygon([0, 0, bad, 0, 2, 2])])
def test_numbers_that_are_not_finite_are_refused(bad, shape):
    with pytest.raises(ValueError, match=r"finite numbers of pixels but got .* Remedy: "):
        draw(shape(bad), (4, 3))


def test_truth_is_drawn_in_the_pixels_of_the_file_also_where_the_picture_was_reduced(tmp_path: Path):
    for name, turned in (("a.jpg", 1), ("b.jpg", 6)):
        image = paint(draw((32, 16, 64, 48), (64, 48)))
        image.getexif()[0x0112] = turned
        image.save(tmp_path / name, quality=95, exif=image.getexif())
        reference = PairReference("a", str(tmp_path / name), "a cat", TruthReference([(32, 16, 64, 48)]))
        whole, small = read_pair(reference), read_pair(reference, max_pixels=1000)
        for pair, factor in ((whole, 1), (small, 2)):
            expected = np.asarray(pair.image)[..., 0] > 128
            assert pair.truth.mask.sum() == 32 * 32 / factor**2
            assert (pair.truth.mask == expected).mean() > 0.97  # JPEG rounds colours at the edge


def test_the_size_of_a_picture_that_cannot_be_is_refused_before_it_is_drawn():
    with pytest.raises(ValueError, match=r"of some size but got 4000000 x 3000000"):
        TruthReference([(0, 0, 1, 1)], size=(4_000_000, 3_000_000)).read(Image.new("L", (4, 3)), (4, 3), "a cat")


def test_truth_is_drawn_on_no_more_than_eight_times_the_pixels_of_a_picture():
    reference = TruthReference([(0, 0, 1, 1)], size=(8 * MAX_PIXELS + 8, 1))
    with pytest.raises(ValueError, match=r"of some size but got 400000008 x 1"):
        reference.read(Image.new("L", (4, 3)), (4, 3), "a cat")


def test_run_lengths_go_down_the_columns():
    # two out, three in, one out, of columns of two: (0,0) (1,0) out; (0,1) (1,1) (0,2) in; (1,2) out
    assert draw(RunLengths([2, 3, 1], (2, 3)), (3, 2)).astype(int).tolist() == [[0, 1, 1], [0, 1, 0]]
    with pytest.raises(ValueError, match="run lengths of 2 x 3 pixels"):
        draw(RunLengths([2, 3], (2, 3)), (3, 2))


def test_outlines_are_filled():
    mask = draw(Polygon([2, 2, 8, 2, 8, 6, 2, 6]), (12, 10))
    assert mask[3:6, 3:8].all() and not mask[:2].any() and not mask[:, :2].any() and not mask[:, 9:].any()
    with pytest.raises(ValueError, match="at least 3 corners but got 4 numbers"):
        draw(Polygon([1, 2, 3, 4]), (12, 10))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_are_what_is_not_0(tmp_path: Path, mode: str):
    expected = draw((1, 0, 3, 2), (5, 4))
    if mode == "I;16":
        picture = Image.fromarray(expected.astype(np.uint16))
    elif mode == "P":
        picture = Image.fromarray(expected.astype(np.uint8), "L")
        picture.putpalette([200, 9, 9, 0, 0, 0])  # the index counts and not the colour
    else:
        picture = Image.fromarray(np.where(expected, 255, 0).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(draw(MaskFile(str(tmp_path / "mask.png")), (5, 4)), expected)
    doubled = draw(MaskFile(str(tmp_path / "mask.png")), (10, 8))
    np.testing.assert_array_equal(doubled, np.kron(expected, np.ones((2, 2))) > 0)
    with pytest.raises(ValueError, match=r"one shape but got 5 x 4 and 4 x 5 pixels .* Remedy: "):
        draw(MaskFile(str(tmp_path / "mask.png")), (4, 5))
    with pytest.raises(ValueError, match="which does not exist"):
        draw(MaskFile("nowhere.png"), (4, 5))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_truth_is_turned_with_its_picture(tmp_path: Path, orientation: int):
    box = (2, 1, 5, 3)
    picture = paint(draw(box, (12, 8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    pair = read_pair(PairReference("a", str(tmp_path / "a.png"), "x", TruthReference([box])))
    assert pair.image.size == ((8, 12) if orientation >= 5 else (12, 8))
    np.testing.assert_array_equal(pair.truth.mask, np.asarray(pair.image)[..., 0] > 127)


def test_truth_drawn_on_another_size_is_resized(tmp_path: Path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    truth = TruthReference([(20, 0, 40, 16)], size=(100, 80))
    mask = read_pair(PairReference("a", str(tmp_path / "a.png"), "x", truth)).truth.mask
    np.testing.assert_array_equal(mask, draw((10, 0, 20, 8), (50, 40)))
    with pytest.raises(ValueError, match="of one shape but got 80 x 100 and 50 x 40 pixels"):
        read_pair(PairReference("a", str(tmp_path / "a.png"), "x", truth._replace(size=(80, 100))))


@pytest.mark.parametrize("span", [(0, 6), (-1, 2), (2, 2), (3, 1)])
def test_spans_beyond_the_text_are_refused(span):
    with pytest.raises(ValueError, match=r"within the text's 5 characters but got .* Remedy: "):
        TruthReference(spans=[span]).read("", (1, 1), "a cat")


def box_in_view(box, view, size):
    """Where the model sees a box of the original picture, in fractions of what it sees, cut at its edges."""
    width, height = view[2] - view[0], view[3] - view[1]
    left, right = ((x / size[0] - view[0]) / width for x in box[::2])
    top, bottom = ((y / size[1] - view[1]) / height for y in box[1::2])
    if min(right, bottom) <= 0 or max(left, top) >= 1:
        return None
    return max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (96, 96), (640, 100), (33, 47)])
@pytest.mark.parametrize("where", [(0.4, 0.4, 0.6, 0.7), (0.3, 0.1, 0.9, 0.5), (0.0, 0.0, 0.45, 0.5)])
def test_boxes_land_where_the_processor_puts_their_pixels(size, where):
    backbone = load_backbone("embedded")
    width, height = size
    box = (where[0] * width, where[1] * height, where[2] * width, where[3] * height)
    mask = draw(box, size)
    batch = backbone.preprocess([paint(mask)], ["a"])
    red = batch.pixel_values[0, 0] - batch.pixel_values[0, 2]
    inside = (red > 0).numpy()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    seen = box_in_view(box, batch.views[0], size)
    if seen is None:
        assert not inside.any()
        return
    high, wide = inside.shape
    landed = (columns[0] / wide, rows[0] / high, (columns[-1] + 1) / wide, (rows[-1] + 1) / high)
    # A pixel of what the model sees, and what drawing rounds the box by in the original.
    slack = [1.5 / side + 1 / (s * (v1 - v0)) for side, s, v0, v1 in (
        (wide, width, batch.views[0][0], batch.views[0][2]), (high, height, batch.views[0][1], batch.views[0][3])
    )] * 2  # fmt: skip
    assert all(abs(a - b) <= s for a, b, s in zip(landed, seen, slack, strict=True)), (landed, seen)


def test_columns_of_truth_are_read_from_tables(tmp_path: Path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    Image.fromarray(draw((0, 0, 1, 1), (8, 6))).save(tmp_path / "mask.png")
    (tmp_path / "pairs.csv").write_text(
        'image,text,boxes,mask,spans\na.png,a cat,"[[1, 2, 3, 4]]",mask.png,"[[2, 5]]"\na.png,a dog,"[1, 2, 3, 4]",,\n'
        "a.png,a bee,,,\n"
    )
    (tmp_path / "pairs.jsonl").write_text(
        '{"image": "a.png", "text": "a cat", "boxes": [[1, 2, 3, 4]], "mask": "mask.png", "spans": [[2, 5]]}\n'
        '{"image": "a.png", "text": "a dog", "boxes": [[1, 2, 3, 4]]}\n{"image": "a.png", "text": "a bee"}\n'
    )
    box = draw((1, 2, 3, 4), (8, 6))
    for name in ("pairs.csv", "pairs.jsonl"):
        data = PairDataModule(source=str(tmp_path / name))
        data.setup("test")
        first, second, third = next(iter(data.test_dataloader()))
        np.testing.assert_array_equal(first.truth.mask, box | draw((0, 0, 1, 1), (8, 6)))
        assert list(first.truth.spans) == [(2, 5)]
        np.testing.assert_array_equal(second.truth.mask, box)
        assert second.truth.spans is None and third.truth == Truth()


MALFORMED = [
    "[[1, 2]]",
    "left",
    '{"a": 1}',
    "[[1, 2, 3, null]]",
    "3",
    "[[0, 0, Infinity, 1]]",
    "[[0, 0, NaN, 1]]",
    "[" * 100_000,
]
MALFORMED += [f"[[0, 0, 1, {'9' * 400}]]", f"[[0, 0, 1, {'9' * 5000}]]", "[[0, 0, 1, 1e999]]"]


@pytest.mark.parametrize("cell", MALFORMED, ids=lambda cell: cell[:30])
def test_malformed_truth_is_named_by_line_and_only_where_it_is_wanted(tmp_path: Path, cell: str):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    cell = cell.replace('"', '""')
    (tmp_path / "pairs.csv").write_text(f'image,text,boxes\na.png,a cat,"{cell}"\n')
    data = PairDataModule(source=str(tmp_path / "pairs.csv"))
    data.setup("predict")
    assert len(next(iter(data.predict_dataloader()))) == 1
    with pytest.raises(ValueError, match=r"4 finite numbers in 'boxes', line 2 of .*pairs.csv, but got .* Remedy: "):
        list(data.test_dataloader())


@pytest.mark.parametrize("cell", ["[[0, Infinity]]", "[[NaN, 3]]", "[" * 100_000])
def test_spans_that_are_no_numbers_are_named_by_line(tmp_path: Path, cell: str):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text(f'image,text,spans\na.png,a cat,"{cell}"\n')
    data = PairDataModule(source=str(tmp_path / "pairs.csv"))
    data.setup("test")
    with pytest.raises(ValueError, match=r"2 finite numbers in 'spans', line 2 of .* Remedy: \[\[start, end\], ...\]"):
        list(data.test_dataloader())


def read(size: tuple[int, int], drawn: tuple[int, int] | None, box=(0, 0, 1, 1)) -> Truth:
    return TruthReference([box], size=drawn).read(Image.new("L", size), size, "a cat")


def assert_read_or_said(stored: tuple[int, int], drawn: tuple[int, int], fits: bool, message: str) -> None:
    if fits:
        assert read(stored, drawn).mask.shape == stored[::-1]
    else:
        with pytest.raises(ValueError) as said:
            read(stored, drawn)
        assert str(said.value) == message


@pytest.mark.parametrize(
    ("drawn", "stored", "fits"),
    [
        ((100, 10), (101, 10), True),  # one pixel of rounding
        ((100, 10), (99, 10), True),
        ((100, 10), (102, 10), False),
        ((100, 10), (98, 10), False),
        ((10, 10), (110, 100), True),  # ten times as large: so is what a pixel of the drawing is
        ((10, 10), (111, 100), False),
        ((10, 10), (90, 100), True),
        ((40, 30), (20, 15), True),
        ((30, 40), (20, 15), False),
    ],
)
def test_truth_may_be_of_another_size_but_for_a_pixel_of_rounding(drawn, stored, fits):
    assert_read_or_said(
        stored,
        drawn,
        fits,
        (
            f"Expected truth and picture of one shape but got {drawn[0]} x {drawn[1]} and {stored[0]} x {stored[1]} "
            "pixels for an image in memory. Remedy: give the truth of this picture, as it is stored in its file."
        ),
    )


@pytest.mark.parametrize(
    ("drawn", "stored", "fits"),
    [
        ((4, 3), (4, 3), True),  # as large as the picture itself, however small the limit
        ((4, 2), (2, 1), True),  # 8 times the limit of one pixel
        ((3, 3), (1, 1), False),
        ((16, 2), (8, 1), False),
        ((2, 16), (1, 8), False),
        ((8, 6), (4, 3), False),
    ],
)
def test_truth_is_drawn_on_as_many_pixels_as_the_picture_has_or_eight_times_the_limit(drawn, stored, fits, monkeypatch):
    monkeypatch.setattr("m2ib_lightning.data.truth.MAX_PIXELS", 1)
    assert_read_or_said(
        stored,
        drawn,
        fits,
        (
            f"Expected truth on a picture of some size but got {drawn[0]} x {drawn[1]} for an image in memory. "
            "Remedy: correct the size of the picture in the annotations."
        ),
    )


def test_a_mask_may_have_as_many_pixels_as_its_picture(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("m2ib_lightning.data.truth.MAX_PIXELS", 10)
    Image.new("1", (8, 4), 1).save(tmp_path / "m.png")
    assert draw(MaskFile(str(tmp_path / "m.png")), (8, 4)).all()
    with pytest.raises(ValueError, match="at most 10 pixels but got 8 x 4"):
        draw(MaskFile(str(tmp_path / "m.png")), (4, 2))


def test_every_channel_of_a_mask_counts_but_how_opaque_it_is(tmp_path: Path):
    colours = np.array([[[0, 0, 0, 255], [0, 0, 1, 0], [0, 2, 0, 0], [255, 0, 0, 9]]], dtype=np.uint8)
    greys = np.array([[[0, 255], [1, 0], [2, 9], [0, 0]], [[0, 7], [3, 0], [4, 9], [0, 0]]], dtype=np.uint8)
    for name, values, expected in (
        ("rgba", colours, [[False, True, True, True]]),
        ("rgb", colours[..., :3], [[False, True, True, True]]),
        ("la", greys, [[False, True, True, False]] * 2),
    ):
        Image.fromarray(np.ascontiguousarray(values)).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(draw(MaskFile(str(tmp_path / f"{name}.png")), (4, len(expected))), expected)


def test_run_lengths_begin_outside_and_are_those_of_the_picture():
    expected = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=bool)
    assert (draw(RunLengths([1, 2, 3, 4, 2], (4, 3)), (3, 4)) == expected).all()
    assert draw(RunLengths([0, 12], (4, 3)), (3, 4)).all()
    for counts, size in (([0, 12], (3, 4)), ([0, 11], (4, 3)), ([0, 9], (4, 3)), ([0, 16], (4, 3)), ([0, 12], (4, 2))):
        with pytest.raises(ValueError) as said:
            draw(RunLengths(counts, size), (3, 4))
        assert str(said.value) == (
            f"Expected run lengths of 4 x 3 pixels (height x width) but got {counts[1]} pixels of {size[0]} x {size[1]}"
            ". Remedy: give those of this picture."
        )


def test_an_outline_has_three_corners_or_more():
    assert draw(Polygon([0, 0, 8, 0, 0, 8]), (10, 10))[1, 1:5].all()
    assert draw(Polygon([0, 0, 8, 0, 8, 8, 4, 9, 0, 8]), (10, 10))[1:7, 1:7].all()
    for count in (0, 4, 5, 7, 9):
        with pytest.raises(
            ValueError, match=f"at least 3 corners but got {count} numbers. Remedy: correct the outline"
        ):
            draw(Polygon([1.0] * count), (10, 10))


@pytest.mark.parametrize("box", [(0, 0, 4, 0.5), (0, 0, 0.5, 3), (3.5, 0, 9, 9), (0, 2.5, 9, 9), (-9, -9, 0.1, 0.1)])
def test_a_box_that_touches_the_picture_holds_a_pixel(box):
    assert draw(box, (4, 3)).any()


@pytest.mark.parametrize("box", [(1, 1, 2, 1), (0, -3, 1, 0), (1, 2, 2, 1), (0, 3.5, 1, 5), (0, -3, 1, -1)])
def test_a_box_above_or_below_or_without_height_is_refused(box):
    with pytest.raises(ValueError) as said:
        draw(box, (4, 3))
    assert str(said.value) == (
        f"Expected boxes (left, top, right, bottom) within 4 x 3 pixels but got {box}. "
        "Remedy: pixels of the original picture, left before right and top before bottom."
    )


def test_pixels_of_boxes_are_those_of_a_slow_rule():
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top = rng.uniform(-1, [5, 4])
        right, bottom = left + rng.uniform(0.1, 3), top + rng.uniform(0.1, 3)
        if right <= 0 or bottom <= 0 or left >= 5 or top >= 4:
            continue
        sides = []
        for start, end, count in ((top, bottom, 4), (left, right, 5)):
            held = [i for i in range(-9, 12) if start <= i + 0.5 < end] or [int(start)]
            sides.append([i for i in held if 0 <= i < count] or [0 if held[-1] < 0 else count - 1])
        expected = np.zeros((4, 5), dtype=bool)
        expected[np.ix_(*sides)] = True
        np.testing.assert_array_equal(draw((left, top, right, bottom), (5, 4)), expected)


def test_parts_are_drawn_and_turned_like_the_whole_and_their_spans_are_looked_at():
    image = Image.new("L", (4, 3))
    image.getexif()[0x0112] = 6
    top, end = (0, 0, 4, 1), (3, 0, 4, 3)
    truth = TruthReference([top, end], [(0, 1)], parts=[((0, 1), [top]), ((2, 5), [end])]).read(image, (3, 4), "a cat")
    np.testing.assert_array_equal(truth.mask, [[0, 0, 1], [0, 0, 1], [0, 0, 1], [1, 1, 1]])
    assert [part.span for part in truth.parts] == [(0, 1), (2, 5)] and truth.spans == [(0, 1)]
    np.testing.assert_array_equal(truth.parts[0].mask, [[0, 0, 1]] * 4)
    np.testing.assert_array_equal(truth.parts[1].mask, [[0, 0, 0]] * 3 + [[1, 1, 1]])
    with pytest.raises(ValueError, match=r"5 characters but got \(0, 6\)"):
        TruthReference([top], parts=[((0, 6), [top])]).read(image, (3, 4), "a cat")
    assert TruthReference((), [(0, 5)]).read(image, (3, 4), "a cat") == Truth(None, [(0, 5)])
