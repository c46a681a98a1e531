from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.display import NATS_FLOOR, blend, words_html
from m2ib_lightning.report.frame import GAP, PANEL, TOP, WIDTH, draw_frame
from m2ib_lightning.report.mask_state import FrameScale, MaskState
from tests.report.made import attribution


def state(step: int = 3, loss: float = -0.5, **changes) -> MaskState:
    a = attribution(**changes)
    mask = replace(
        a,
        image_map=None if a.image_map is None else a.image_map / 50,
        text_map=None if a.text_map is None else np.full_like(a.text_map, 0.5),
    )
    return MaskState(step, loss, a, mask)


def test_words_have_the_sum_of_their_nats_and_the_mean_of_their_masks():
    found = state(text="a cat").words()
    assert found == [("a", 1.0, 0.5), ("cat", 2.0, 0.5)]
    joined = state(text="cats", tokens=["<bos>", "ca", "ts", "<eos>"], special=np.array([True, False, False, True]),
                   spans=[(0, 0), (0, 2), (2, 4), (0, 0)], text_map=np.array([0, 3, 4, 0], np.float32))  # fmt: skip
    assert joined.words() == [("cats", 7.0, 0.5)]


def test_the_scale_is_half_of_the_start_and_shows_a_quarter_of_it_at_its_middle():
    scale = FrameScale.at_start(state(text_map=np.array([0, 1, 2, 3, 4, 90, 0], np.float32)))
    assert scale == FrameScale(30.0, 50.0)  # 50 / 2 and 90 / 2, rounded up to one digit
    assert FrameScale.at_start(state()).word == NATS_FLOOR  # and not 5 / 2
    np.testing.assert_allclose(scale.share(np.array([0.0, 7.5, 30.0, 90.0], np.float32)), [0, 0.5, 1, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_map": None},
        {"text_map": None},
        {"text": "one " * 60},
        {"text": "一只猫 和 Ünïcødé $x$"},
        {"id": "a very long name of a pair " * 5},
        {"image_map": np.zeros((2, 7), np.float32)},
    ],
    ids=["both", "text alone", "image alone", "long text", "other scripts", "long name", "nothing let through"],
)
def test_every_pair_can_be_drawn_in_the_same_size_at_every_step(changes):
    image = Image.new("RGB", (60, 40), "teal")
    first = state(0, float("nan"), **changes)
    scale = FrameScale.at_start(first)
    frames = [draw_frame(s, image, scale) for s in (first, state(10, -0.123, **changes))]
    assert frames[0].size == frames[1].size and frames[0].width == WIDTH


def test_the_highest_patch_is_the_brightest_place_of_the_left_panel():
    frame = np.asarray(draw_frame(state(), Image.new("RGB", (80, 80)), FrameScale(50.0, 5.0))).astype(int)
    panel = frame[68 : 68 + PANEL, 16 : 16 + PANEL].sum(-1)
    row, column = np.unravel_index(panel.argmax(), panel.shape)
    assert row < PANEL / 4 and column > 3 * PANEL / 4  # the upper right of 4 x 4 cells


@pytest.mark.parametrize("size", [(900, 30), (30, 900)])
def test_long_pictures_give_frames_of_a_usable_height(size):
    frame = draw_frame(state(), Image.new("RGB", size), FrameScale(50.0, 5.0))
    assert PANEL / 4 < frame.height < 3 * PANEL


def test_words_in_html_are_escaped():
    found = words_html([("<b>", 3.0, 0.25)], 4.0, "cats & dogs")
    assert "&lt;b&gt;" in found and "<b>" not in found and "cats &amp; dogs" in found
    assert "mask value 0.25" in found


def blended(colours: str, place: float, shade: float) -> np.ndarray:
    """A colour as it looks where the heat has a place on its scale and covers as `Attribution.overlay` says."""
    from matplotlib import colormaps

    weight = 0.9 * place**0.5
    return 255 * (weight * np.array(colormaps[colours](place)[:3]) + (1 - weight) * shade)


def test_where_there_is_no_heat_the_picture_is_seen_to_the_bit():
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    seen = blend(np.asarray(picture / 255, np.float32), np.zeros((16, 16), np.float32), "inferno")
    np.testing.assert_array_equal(np.asarray(seen), picture)


def test_a_mask_is_shown_on_a_straight_scale_and_nats_on_one_of_square_roots():
    made = state(image_map=np.full((4, 4), 25, np.float32))
    made = made._replace(mask=replace(made.mask, image_map=np.full((4, 4), 0.25, np.float32)))
    frame = np.asarray(draw_frame(made, Image.new("RGB", (64, 64), "black"), FrameScale(100.0, 5.0)), float)
    middle = TOP + PANEL // 2
    capacity, mask = frame[middle, GAP + PANEL // 2], frame[middle, 2 * GAP + PANEL + PANEL // 2]
    np.testing.assert_allclose(mask, blended("viridis", 0.25, 0), atol=3)
    np.testing.assert_allclose(capacity, blended("inferno", 0.5, 0), atol=3)  # the root of 25 / 100


def test_a_word_at_the_top_of_the_scale_is_darkest_and_one_at_a_quarter_half_as_dark():
    made = state(text="one two", text_map=np.array([0, 5, 20, 0], np.float32))
    frame = np.asarray(draw_frame(made, Image.new("RGB", (64, 64)), FrameScale(50.0, 20.0)))
    found = {tuple(colour) for colour in frame.reshape(-1, 3).tolist()}
    assert (245, 132, 60) in found  # 20 of 20
    assert any(
        np.abs(np.subtract(colour, (250, 194, 158))).max() <= 1 for colour in found
    )  # 5 of 20: half way to white
