from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.backbones.openclip import OpenClipBackbone
from m2ib_lightning.backbones.processing import Texts
from m2ib_lightning.backbones.view import crop_to_ratio, output_size, trim, view_of, within
from tests.checkpoints import CHECKPOINTS


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 10**6))
def test_the_view_is_where_the_processor_looks(width: int, height: int, seed: int):
    """A bright square is found by the view where the processor's own output shows it."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 24, "width": 28})
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    left, top = rng.integers(0, width - 9), rng.integers(0, height - 9)
    pixels[top : top + 10, left : left + 10] = 255
    seen = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0, 0]
    seen = (seen - seen.min()) / (np.ptp(seen) + 1e-9)
    view = view_of(processor, width, height)
    expected = [
        (
            (left / width - view[0]) / (view[2] - view[0]) * 28,
            ((left + 10) / width - view[0]) / (view[2] - view[0]) * 28,
        ),
        (
            (top / height - view[1]) / (view[3] - view[1]) * 24,
            ((top + 10) / height - view[1]) / (view[3] - view[1]) * 24,
        ),
    ]
    if any(start < 0 or end > side for (start, end), side in zip(expected, (28, 24), strict=True)):
        return  # partly outside
    columns, rows = np.nonzero(seen.max(0) > 0.5)[0], np.nonzero(seen.max(1) > 0.5)[0]
    for found, (start, end) in zip((columns, rows), expected, strict=True):
        # Edges fall within a pixel and a half: resizing blurs by up to one and rounds to whole pixels.
        assert abs(found.min() - start) <= 1.5 and abs(found.max() + 1 - end) <= 1.5


def test_a_resize_to_a_given_size_sees_everything():
    processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    assert view_of(processor, 50, 20) == (0.0, 0.0, 1.0, 1.0)


def test_pictures_that_keep_their_proportions_are_seen_whole(tmp_path):
    backbone = load_backbone(str(CHECKPOINTS["siglip2"](tmp_path)))
    batch = backbone.preprocess([Image.new("RGB", (80, 20)), Image.new("RGB", (20, 80))], ["a cat", "a dog"])
    assert batch.views == ((0, 0, 1, 1), (0, 0, 1, 1))


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (8000, 40)])
def test_an_extremely_long_picture_is_trimmed_to_what_the_processor_keeps(size: tuple[int, int]):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    trimmed, kept = trim(image, processor)
    assert max(trimmed.size) <= 8 * min(size) + 1
    whole, part = (processor(i, return_tensors="np")["pixel_values"] for i in (image, trimmed))
    np.testing.assert_allclose(part, whole, atol=1e-5)
    np.testing.assert_allclose(
        within(kept, view_of(processor, *trimmed.size)), view_of(processor, *size), atol=1 / max(size)
    )


def test_the_long_side_is_rounded_down_as_the_processor_does():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 10}, crop_size={"height": 10, "width": 10})
    resized = processor(Image.new("RGB", (16, 9)), do_center_crop=False, return_tensors="np")["pixel_values"]
    assert resized.shape[-2:] == (10, 17)  # 17.8 by proportion
    assert view_of(processor, 16, 9) == pytest.approx((3 / 17, 0, 13 / 17, 1))
    assert view_of(processor, 9, 16) == pytest.approx((0, 3 / 17, 1, 13 / 17))


def test_an_ordinary_picture_is_not_trimmed():
    image = Image.new("RGB", (300, 100))
    assert trim(image, CLIPImageProcessorPil()) == (image, (0.0, 0.0, 1.0, 1.0))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 50), st.integers(1, 50))
def test_a_crop_to_proportions_is_centred_and_as_large_as_can_be(width: int, height: int, rows: int, columns: int):
    part, box = crop_to_ratio(Image.new("RGB", (width, height)), (rows, columns))
    assert part.width == width or part.height == height
    assert abs(box[0] - (1 - box[2])) <= 1 / width + 1e-9 and abs(box[1] - (1 - box[3])) <= 1 / height + 1e-9
    # To the pixel that a side is rounded to.
    assert abs(part.width * rows - part.height * columns) <= max(rows, columns)


def test_an_image_size_of_other_proportions_is_cut_from_the_middle_of_the_picture():
    backbone = load_backbone("embedded", image_size=(96, 192))
    batch = backbone.preprocess([Image.new("RGB", (200, 200))], ["a cat"])
    assert batch.views == ((0, 0.25, 1, 0.75),) and backbone.image.grid(batch) == (8, 16)
    assert load_backbone("embedded", image_size=120).image_size == (120, 120)


class OpenClip:
    """What `OpenClipBackbone` reads a picture with, of 10 x 10 pixels, and the sizes that its transform was given."""

    _view, image_size, device = OpenClipBackbone._view, (10, 10), "cpu"

    def __init__(self, resize_mode: str) -> None:
        self.settings, self.given = SimpleNamespace(resize_mode=resize_mode), []

    def transform(self, image):
        self.given.append(image.size)
        return torch.zeros(3, 10, 10)

    def _read_texts(self, texts):
        return Texts(torch.zeros(1, 1), torch.ones(1, 1), (("a",),), (((0, 1),),), (False,))


@pytest.mark.parametrize(
    ("resize_mode", "view"),
    [
        ("shortest", (0.25, 0, 0.75, 1)),  # 20 x 10, of which the middle is kept
        ("longest", (0, -0.5, 1, 1.5)),  # 10 x 5, padded above and below by half its height
        ("squash", (0, 0, 1, 1)),
    ],
)
def test_what_open_clip_sees_of_a_picture_twice_as_wide_as_high(resize_mode, view):
    assert OpenClip(resize_mode)._view(40, 20) == view
    left, top, right, bottom = view
    assert OpenClip(resize_mode)._view(20, 40) == (top, left, bottom, right)


@pytest.mark.parametrize(
    ("resize_mode", "given", "view"),
    [("shortest", (160, 20), (0.45, 0, 0.55, 1)), ("squash", (200, 20), (0, 0, 1, 1))],
)
def test_open_clip_is_given_the_middle_of_a_very_long_picture_where_it_would_crop(resize_mode, given, view):
    model = OpenClip(resize_mode)
    batch = OpenClipBackbone.read(model, [Image.new("L", (200, 20))], ["a"])
    assert model.given == [given] and batch.views[0] == pytest.approx(view)


def test_a_processor_that_does_not_say_neither_resizes_nor_crops():
    assert view_of(SimpleNamespace(), 40, 20) == (0.0, 0.0, 1.0, 1.0)
    assert output_size(SimpleNamespace()) is None
    image = Image.new("RGB", (900, 10))
    assert trim(image, SimpleNamespace()) == (image, (0.0, 0.0, 1.0, 1.0))


def test_a_crop_without_a_resize_is_of_the_pictures_own_pixels_and_may_reach_beyond():
    crop = SimpleNamespace(height=10, width=12)
    processor = SimpleNamespace(do_center_crop=True, crop_size=crop)
    assert view_of(processor, 40, 20) == (14 / 40, 5 / 20, 26 / 40, 15 / 20)
    assert view_of(processor, 41, 23) == (14 / 41, 6 / 23, 26 / 41, 16 / 23)
    assert view_of(processor, 6, 10) == (-3 / 6, 0, 9 / 6, 1)


def test_a_processor_gives_its_crop_or_else_its_size_unless_that_depends_on_the_picture():
    size, crop = {"height": 3, "width": 4}, {"height": 5, "width": 6}
    both = {"size": size, "crop_size": crop}
    assert output_size(SimpleNamespace(do_center_crop=True, do_resize=True, **both)) == (5, 6)
    assert output_size(SimpleNamespace(do_center_crop=False, do_resize=True, **both)) == (3, 4)
    assert output_size(SimpleNamespace(do_resize=True, size={"shortest_edge": 3})) is None
    assert output_size(SimpleNamespace(do_resize=True, size={"height": 3})) is None
    assert output_size(SimpleNamespace(do_resize=False, **both)) is None


def test_a_picture_of_eight_to_one_is_whole_and_of_a_little_more_is_trimmed_alike_on_both_sides():
    processor = SimpleNamespace(do_center_crop=True)
    for size in ((80, 10), (10, 80)):
        image = Image.new("RGB", size)
        kept, box = trim(image, processor)
        assert kept is image and box == (0.0, 0.0, 1.0, 1.0)
    assert trim(Image.new("RGB", (90, 10)), processor)[1] == (5 / 90, 0, 85 / 90, 1)
    assert trim(Image.new("RGB", (10, 90)), processor)[1] == (0, 5 / 90, 1, 85 / 90)
    part, box = trim(Image.new("RGB", (91, 10)), processor)
    assert part.size == (81, 10) and box == (5 / 91, 0, 86 / 91, 1)
    assert trim(Image.new("RGB", (90, 10)), SimpleNamespace(do_center_crop=False))[1] == (0, 0, 1, 1)


def test_a_part_of_a_picture_has_a_pixel_at_least():
    for size, ratio in (((1, 10), (1, 3)), ((10, 1), (3, 1)), ((1, 1), (5, 1))):
        part, box = crop_to_ratio(Image.new("RGB", size), ratio)
        assert min(part.size) == 1 and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
    part, box = crop_to_ratio(Image.new("RGB", (41, 20)), (10, 10))
    assert part.size == (20, 20) and box == (10 / 41, 0, 30 / 41, 1)
    part, box = crop_to_ratio(Image.new("RGB", (20, 41)), (10, 20))
    assert part.size == (20, 10) and box == (0, 15 / 41, 1, 25 / 41)


def test_a_box_in_a_box_is_a_box_of_the_whole():
    assert within((0.2, 0.1, 0.6, 0.9), (0.25, 0.5, 0.75, 1.0)) == pytest.approx((0.3, 0.5, 0.5, 0.9))
