import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2ib_lightning.attribution import Attribution
from tests.made import assert_equal, attribution


def test_words_are_the_sums_of_their_tokens_without_special_ones():
    assert attribution().words() == [("an", 1.0), ("ice", 2.0), ("-", 3.0), ("cream", 4.0), ("van", 6.5)]


def test_tokens_that_share_a_character_are_one_word():
    byte_level = attribution(
        text="café au 猫犬", spans=[(0, 0), (0, 3), (3, 4), (3, 4), (5, 7), (8, 9), (8, 9), (9, 10)],
        special=np.array([1, 0, 0, 0, 0, 0, 0, 0], dtype=bool), text_map=np.arange(8, dtype=np.float32),
    )  # fmt: skip
    assert byte_level.words() == [("café", 6.0), ("au", 4.0), ("猫", 11.0), ("犬", 7.0)]


def test_a_word_ends_where_the_last_of_its_tokens_does_in_whatever_order_they_come():
    within = attribution(
        text="ice cream", spans=[(0, 3), (4, 9), (5, 7)], special=np.zeros(3, dtype=bool),
        tokens=["ice", "cream", "re"], text_map=np.ones(3, dtype=np.float32),
    )  # fmt: skip
    assert within.words() == [("ice", 1.0), ("cream", 2.0)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_heatmap_has_the_asked_size_and_lies_between_0_and_1(height: int, width: int):
    heat = attribution().heatmap((height, width))
    assert heat.shape == (height, width) and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() <= 1


def test_the_heatmap_is_highest_where_the_map_is_and_leaves_the_map_alone():
    result = attribution()
    before = result.image_map.copy()
    heat = result.heatmap((20, 30))
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert row >= 10 and column >= 15 and heat.max() == 1
    np.testing.assert_array_equal(result.image_map, before)


def test_what_the_model_did_not_see_is_zero():
    heat = attribution(view=(0.25, 0.0, 0.75, 1.0), image_map=np.ones((2, 2), np.float32)).heatmap((10, 40))
    assert (heat[:, :10] == 0).all() and (heat[:, 30:] == 0).all() and (heat[:, 10:30] == 1).all()


def test_a_faint_map_is_shown_as_a_strong_one_is():
    faint = attribution(image_map=attribution().image_map / 1000)
    np.testing.assert_allclose(faint.heatmap((9, 9)), attribution().heatmap((9, 9)), atol=1e-6)


def test_a_map_by_patches_shows_each_patch_with_its_own_value():
    heat = attribution().heatmap((4, 6), style="patch")
    expected = np.array([[0, 1], [2, 8]], np.float32).repeat(2, 0).repeat(3, 1) / 8
    np.testing.assert_array_equal(heat, expected)
    with pytest.raises(ValueError, match="'smooth', 'patch' but got 'bilinear'"):
        attribution().heatmap((4, 6), style="bilinear")


def test_a_lonely_patch_is_drawn_as_a_blob_and_not_as_a_star():
    lonely = np.zeros((5, 5), np.float32)
    lonely[2, 2] = 1
    heat = attribution(image_map=lonely).heatmap((505, 505))
    assert heat[252, 252] == pytest.approx(1, abs=1e-3)  # the patch's own value, at its centre
    # Where the axis has fallen to 0.1, the diagonal is as far away to a tenth; of a bilinear star it is half as far.
    axis = int(np.argmax(heat[252, 252:] < 0.1))
    diagonal = int(np.argmax(np.diag(heat)[252:] < 0.1)) * 2**0.5
    assert diagonal == pytest.approx(axis, rel=0.15)


def test_a_view_beyond_the_picture_is_cut_at_its_edge():
    heat = attribution(view=(-0.5, 0.0, 1.5, 1.0)).heatmap((8, 8))
    assert heat.shape == (8, 8) and 0 < heat.max() <= 1


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_map_with_nothing_positive_is_all_zero_for_display(value: float):
    heat = attribution(image_map=np.full((2, 2), value, np.float32)).heatmap((4, 4))
    np.testing.assert_array_equal(heat, 0)


@pytest.mark.parametrize("style", ["smooth", "patch"])
def test_what_is_negative_is_drawn_as_nothing_and_does_not_darken_what_is_beside_it(style: str):
    negative, none = (np.array([[0, v, 0], [1, 4, 2], [0, v, 0]], np.float32) for v in (-20, 0))
    drawn, expected = (attribution(image_map=values).heatmap((30, 30), style) for values in (negative, none))
    np.testing.assert_array_equal(drawn, expected)


def test_an_overlay_has_the_pictures_size():
    picture = Image.new("RGB", (31, 17), "white")
    overlay = attribution().overlay(picture)
    assert overlay.size == picture.size and overlay.mode == "RGB"
    assert np.asarray(overlay)[-2, -2].tolist() != np.asarray(overlay)[1, 1].tolist()


def test_its_repr_is_one_line_with_what_matters(capsys):
    said = repr(attribution(image_score=0.4, text_score=0.25))
    assert "\n" not in said and len(said) < 250
    for part in (
        "'a'",
        "'an ice-cream van'",
        "0.50 -> 0.40 / 0.25",
        "2 x 2 patches up to 8",
        "'van' with 6.5 nats",
        "max_steps",
    ):
        assert part in said, said
    assert "->" not in repr(attribution()) and "patches" not in repr(attribution(image_map=None))


def test_a_notebook_shows_the_map_over_the_picture_and_every_word(tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "van.png")
    found = [attribution(text="<b>", spans=[(0, 0), (0, 3), *[(0, 0)] * 6], source=str(source))._repr_html_()
             for source in (tmp_path / "van.png", "gone.png")]  # fmt: skip
    sizes = []
    for page in found:
        data = re.search(r"base64,([^']+)", page)[1]
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
        assert "&lt;b&gt;" in page and "<b><" not in page
    assert sizes == [(320, 160), (320, 320)]  # of the picture; of the map where there is none
    assert "<img" not in attribution(image_map=None)._repr_html_()
    assert "nats per word" not in attribution(text_map=None)._repr_html_()


def test_the_strongest_region_is_a_place_in_the_picture():
    assert attribution().strongest_region() == (0.75, 0.75)
    assert attribution(view=(0.5, 0.0, 1.0, 1.0)).strongest_region() == (0.875, 0.75)


def test_what_was_not_explained_is_said():
    with pytest.raises(ValueError, match="'image' in `modalities`"):
        attribution(image_map=None).heatmap((4, 4))
    with pytest.raises(ValueError, match="'text' in `modalities`"):
        attribution(text_map=None).words()


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 x 1"):
        attribution().heatmap((0, 4))


@pytest.mark.parametrize(
    "changed", [{}, {"image_map": None}, {"text_map": None, "truncated": True, "view": (0, 0, 0.5, 1)}]
)
def test_everything_survives_a_file(changed, tmp_path):
    before = attribution(**changed)
    before.save(tmp_path / "a.npz")
    after = Attribution.load(tmp_path / "a.npz")
    assert_equal(before, after)
