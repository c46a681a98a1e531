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


def test_a_result_is_itself_alone_and_begins_with_nothing_that_was_measured():
    bare = Attribution("a", "", None, None, [], np.zeros(0, bool), [], 0.5)
    assert bare != Attribution("a", "", None, None, [], bare.special, [], 0.5) and bare in {bare}
    assert (bare.source, bare.unit, bare.view, bare.truncated) == ("", "nats", (0.0, 0.0, 1.0, 1.0), False)
    assert (bare.steps, bare.stop_reason) == (0, "") and not (bare.metrics or bare.settings or bare.history)
    assert np.isnan([bare.image_score, bare.text_score, bare.image_match, bare.text_match]).all()


def test_its_repr_says_how_many_steps_were_made_if_any_and_no_word_where_there_is_none():
    assert "steps" not in repr(attribution(steps=0)) and ", 1 steps (max_steps);" in repr(attribution(steps=1))
    none = repr(attribution(special=np.ones(8, bool)))
    assert "8 tokens, most in '' with 0 nats" in none
    assert "similarity 0.50 -> 0.25, " in repr(attribution(text_score=0.25))
    assert "similarity 0.50, 2 x 2 patches" in repr(attribution())


def test_two_letters_that_touch_are_one_word_whatever_stands_beside_them():
    spans = [(0, 1), (1, 2), (3, 4), (4, 5), (5, 6)]
    a = attribution(
        text="ab c.d",
        tokens=list("abc.d"),
        special=np.zeros(5, bool),
        spans=spans,
        text_map=np.arange(5, dtype=np.float32),
    )
    assert a.words() == [("ab", 1.0), ("c", 2.0), (".", 3.0), ("d", 4.0)]
    assert a.word_spans(np.ones(5)) == [(0, 2, 2.0), (3, 4, 1.0), (4, 5, 1.0), (5, 6, 1.0)]


def drawn(picture: np.ndarray, heat: float, colour: tuple[float, ...], opacity: float = 0.9) -> np.ndarray:
    """A pixel by hand: a quarter of its colour is left, it is dimmed to 0.6, and covered by the root of the heat."""
    grey = np.array(Image.fromarray(picture.reshape(1, 1, 3)).convert("L"), float)
    dimmed = 0.6 * (0.75 * grey.reshape(1) + 0.25 * picture) / 255
    return 255 * (dimmed + opacity * heat**0.5 * (np.array(colour[:3]) - dimmed))


@pytest.mark.parametrize(
    ("changed", "heats"),
    [
        ({"image_score": 0.4}, (0, 1 / 20, 2 / 20, 8 / 20)),  # the last colour stands for 20 nats at least
        ({"image_score": 0.4, "image_map": 10 * attribution().image_map}, (0, 1 / 8, 2 / 8, 1)),
        ({}, (0, 1 / 8, 2 / 8, 1)),  # against a foil for 4
        ({"unit": "cos", "image_map": attribution().image_map / 16}, (0, 1 / 8, 2 / 8, 1)),
        ({"unit": "cos", "image_map": np.zeros((2, 2), np.float32)}, (0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("doubtful", [False, True])
def test_each_colour_of_an_overlay_stands_for_one_value(changed, heats, doubtful):
    from matplotlib import colormaps

    a = attribution(
        **{"history": {}, **changed, "settings": {"modalities": ["image"]}, "image_match": 0.0 if doubtful else 9.0}
    )
    a.settings["thresholds"] = {"nats": 0.0}
    picture = np.array([[[255, 255, 255], [200, 40, 90]], [[0, 0, 0], [10, 220, 250]]], np.uint8)
    for opacity in (None, 0.5):
        made = a.overlay(Image.fromarray(picture), style="patch", **({} if opacity is None else {"opacity": opacity}))
        for pixel, found, heat in zip(picture.reshape(4, 3), np.asarray(made).reshape(4, 3), heats, strict=True):
            colour = colormaps["gray" if doubtful else "inferno"](round(255 * heat))
            expected = drawn(pixel, round(255 * heat) / 255, colour, opacity or 0.9)
            np.testing.assert_allclose(found, expected, atol=0.51)


def test_the_last_colour_stands_for_the_highest_value_of_nats_at_least_20_or_4_against_a_foil():
    tops = [
        attribution(image_map=np.full((2, 2), top, np.float32), image_score=0.4).image_top for top in (8, 19, 20, 21)
    ]
    assert tops == [20, 20, 20, 21]
    assert [attribution(image_map=np.full((2, 2), top, np.float32)).image_top for top in (3, 4, 5)] == [4, 4, 5]
    assert attribution(unit="cos", image_map=np.full((2, 2), -1, np.float32)).image_top == 0


def test_every_map_that_was_asked_for_has_a_verdict_and_the_worst_is_that_of_the_result():
    both = attribution(stop_reason="non_finite")
    assert both.verdicts == {"image": "not_finite", "text": "not_finite"} and both.verdict == "not_finite"
    one = attribution(text_map=None, image_match=0.0, settings={})
    assert one.verdicts == {"image": "no_match"} and one.verdict == "no_match"
    none = attribution(image_map=None, text_map=None, settings={})
    assert list(none.verdicts) == ["image", "text"] and none.verdict == "not_finite"
    asked = attribution(settings={"modalities": ["text"]}, history={})
    assert asked.verdicts == {"text": "ok"} and asked.verdict == "ok"


def test_a_foil_stands_in_the_title():
    assert attribution().title == "an ice-cream van"
    assert attribution(settings={"against": "a bus"}).title == "an ice-cream van, rather than a bus"


def test_the_strongest_place_is_the_centre_of_a_cell_of_what_the_model_saw():
    values = np.array([[0, 1, 0], [0, 0, 5]], np.float32)
    # The middle of the last of three columns, and of the last of two rows, of what was seen.
    found = attribution(image_map=values, view=(0.1, 0.2, 0.7, 1.0)).strongest_region()
    assert found == pytest.approx((0.1 + 2.5 / 3 * 0.6, 0.2 + 1.5 / 2 * 0.8))


def test_patches_cover_what_the_model_saw_to_the_pixel_and_one_pixel_at_least():
    values = np.array([[4, 1], [2, 3]], np.float32)
    heat = attribution(image_map=values, view=(0.2, 0.25, 0.6, 0.75)).heatmap((8, 10), "patch")
    expected = np.zeros((8, 10))
    expected[2:6, 2:6] = np.kron(values / 4, np.ones((2, 2)))
    np.testing.assert_array_equal(heat, expected)
    thin = attribution(image_map=np.ones((1, 1), np.float32), view=(0.5, 0.25, 0.5, 0.25)).heatmap((8, 10), "patch")
    assert thin.sum() == 1 and thin[2, 5] == 1
    assert attribution().heatmap((1, 1)).shape == (1, 1)


def test_the_values_of_a_map_leave_special_tokens_out_and_each_side_has_its_score():
    a = attribution(image_score=0.4, text_score=0.25)
    assert a.content_of("image").tolist() == [0, 1, 2, 8] and a.content_of("text").tolist() == [1, 2, 3, 4, 0.5, 6]
    assert (a.score_through("image"), a.score_through("text")) == (0.4, 0.25)


def test_nothing_that_could_run_is_written_to_a_file_or_read_from_one(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        attribution(history={"loss": np.array([print], dtype=object)}).save(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", json=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Attribution.load(tmp_path / "b.npz")
