import html
import re
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2ib_lightning import Attribution
from m2ib_lightning.display import NATS_FLOOR, chips
from m2ib_lightning.report import pair_figure, save_pair_figure
from m2ib_lightning.report.caption import place_words
from m2ib_lightning.report.page import drawable, fit, measure
from tests.report.made import attribution

BLUE = Image.new("RGB", (40, 40), (40, 60, 200))


def texts(made: Attribution, folder: Path, image: Image.Image = BLUE) -> list[str]:
    """Every text of the figure, in its order; the SVG backend notes each one in a comment."""
    save_pair_figure(made, image, folder / "figure.svg")
    written = (folder / "figure.svg").read_text(encoding="utf-8")
    return [html.unescape(text) for text in re.findall(r"<!-- (.*) -->", written)]


def hue_areas(figure: Image.Image) -> tuple[int, int]:
    """Number of pixels that are strongly blue, and that are yellow to red."""
    red, _, blue = np.moveaxis(np.asarray(figure).astype(int), -1, 0)
    return int((blue - red > 120).sum()), int((red - blue > 60).sum())


def test_the_caption_is_the_title_above_id_scores_steps_and_stop_reason(tmp_path):
    found = texts(attribution(), tmp_path)
    assert found[0] == "a photo of a cat"
    parts = ["pair-1", "similarity 0.250", "through the bottleneck: image 0.500, text 0.750", "10 steps (max steps)"]
    assert found[1] == " · ".join(parts)


def test_scores_that_were_not_measured_and_steps_that_were_not_made_are_left_out(tmp_path):
    nan = float("nan")
    found = texts(attribution(image_score=nan, text_score=nan, steps=0, stop_reason=""), tmp_path)
    assert found[1] == "pair-1 · similarity 0.250"


def test_scales_carry_the_unit_and_raw_values(tmp_path):
    found = texts(attribution(), tmp_path)
    assert {"nats per patch", "nats per word", "50"} <= set(found)
    found = texts(attribution(unit="gradient"), tmp_path)
    assert {"gradient per patch", "gradient per word"} <= set(found)


def test_every_word_stands_over_its_value(tmp_path):
    found = texts(attribution("look, a cat"), tmp_path)
    start = found.index("look")
    assert found[start : start + 8] == ["look", "1.00", ",", "2.00", "a", "3.00", "cat", "4.00"]


def test_values_of_special_tokens_are_told(tmp_path):
    made = attribution("a cat", text_map=np.array([0, 1, 2, 283], np.float32))
    assert "on no word: <eos> 283" in texts(made, tmp_path)


def test_mathematics_in_a_text_stands_for_itself(tmp_path):
    found = texts(attribution("$x^2$ {", id="$\\frac$"), tmp_path)
    assert found[0] == "$x^2$ {" and found[1].startswith("$\\frac$ ")
    assert [word for word in found if word in "$x^2${"] == ["$", "x", "^", "2", "$", "{"]
    assert "cost $5 or $6" in texts(attribution("cost $5 or $6", text_map=None), tmp_path)


def test_what_was_not_explained_is_shown_plain(tmp_path):
    found = texts(attribution(image_map=None), tmp_path)
    assert "nats per patch" not in found and "nats per word" in found
    found = texts(attribution(text_map=None), tmp_path)
    assert "nats per word" not in found and "nats per patch" in found and "a photo of a cat" in found


def test_the_picture_shows_the_image_and_lights_up_its_map():
    dark = np.zeros((4, 4), np.float32)
    blue, warm = hue_areas(pair_figure(attribution(text_map=None), BLUE))
    blue_dark, warm_dark = hue_areas(pair_figure(attribution(text_map=None, image_map=dark), BLUE))
    assert blue > 250 * 250  # the original, 250 points wide at more than a pixel a point
    assert warm > warm_dark + 5000  # the patch with the value
    assert blue_dark >= blue


def test_a_part_that_the_model_did_not_see_is_told(tmp_path):
    found = texts(attribution(view=(0.25, 0.0, 0.75, 1.0)), tmp_path)
    assert "image attribution, dashed: what the model saw" in found
    assert "image attribution" in texts(attribution(), tmp_path)


def test_a_cut_text_is_told(tmp_path):
    assert "text attribution, the end of the text was cut" in texts(attribution(truncated=True), tmp_path)


def test_a_long_caption_makes_the_picture_higher_not_wider():
    short, long = (pair_figure(attribution("a small cat " * n), BLUE) for n in (1, 25))
    assert long.width == short.width
    assert long.height > short.height + 200


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (8000, 3), (96, 96), (300, 400), (640, 300)])
def test_any_shape_of_image_gives_a_picture_of_moderate_size(size):
    figure = pair_figure(attribution(), Image.new("RGB", size, "teal"))
    assert figure.mode == "RGB"
    assert 700 < figure.width < 1600 and 500 < figure.height < 1600


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, 7.0, 1e6])
def test_constant_maps_give_a_picture(value, tmp_path):
    made = attribution("a cat", image_map=np.full((4, 4), value, np.float32), text_map=np.full(4, value, np.float32))
    assert "nats per patch" in texts(made, tmp_path)


def test_characters_that_no_font_has_are_boxes_and_not_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair_figure(attribution("一只猫 кошка قطة \U0010fffd\n\x07 🐱", id="猫"), BLUE)
    assert drawable("кошка\n\U0010fffd") == "кошка □"


def test_pyplot_keeps_nothing():
    import matplotlib.pyplot as plt

    pair_figure(attribution(), BLUE)
    assert plt.get_fignums() == []


def test_the_same_attribution_gives_the_same_picture():
    np.testing.assert_array_equal(pair_figure(attribution(), BLUE), pair_figure(attribution(), BLUE))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text("aimMW,猫", min_size=1, max_size=120), st.floats(-1e3, 1e3)), max_size=30))
def test_words_keep_their_order_and_stay_on_the_page(words):
    placed = place_words(chips(words, "nats"), 400)
    assert "".join(word.chip.word for word in placed) == "".join(word for word, _ in words)
    assert all(word.x >= 0 and word.x + word.width <= 400 for word in placed)
    for one, other in pairwise(placed):
        after = other.line == one.line and other.x >= one.x + one.width
        assert after or (other.line, other.x) == (one.line + 1, 0)


def test_a_line_that_is_too_long_is_cut_in_its_middle():
    cut = fit("folder/" * 30 + "name.jpg", 200, 12)
    assert measure(cut, 12) <= 200
    assert cut.startswith("folder/") and "…" in cut and cut.endswith("name.jpg")


def grounds(monkeypatch, *values: float, **changed) -> np.ndarray:
    """(words, 3) in [0, 1], the colours that the words of some values stand on."""
    import matplotlib.patches

    drawn, box = [], matplotlib.patches.FancyBboxPatch
    monkeypatch.setattr(
        matplotlib.patches, "FancyBboxPatch", lambda *a, facecolor, **k: drawn.append(facecolor) or box(*a, **k)
    )
    text = " ".join("abcdef"[: len(values)])
    pair_figure(attribution(text, text_map=np.array([9, *values, 9], np.float32), **changed), BLUE)
    return np.array(drawn[-len(values) :])[:, :3]


def test_a_word_is_as_dark_as_the_root_of_its_share_of_the_highest(monkeypatch):
    expected = np.array([(255, 255, 255), (250, 193.5, 157.5), (245, 132, 60)]) / 255  # white, half way, the darkest
    np.testing.assert_allclose(grounds(monkeypatch, 0, 20, 80), expected, atol=0.01)


def test_what_is_next_to_nothing_is_drawn_as_next_to_nothing(monkeypatch, tmp_path):
    (faint,) = grounds(monkeypatch, 0.5)
    assert faint.min() > 0.85  # the root of 0.5 / 20 of the way to orange
    weak = attribution(image_map=np.full((4, 4), 0.5, np.float32))
    strong = attribution(image_map=np.full((4, 4), 200, np.float32))
    (_, warm), (_, hot) = hue_areas(pair_figure(weak, BLUE)), hue_areas(pair_figure(strong, BLUE))
    assert hot > 100_000 and warm < 0.1 * hot
    assert f"{NATS_FLOOR:.0f}" in texts(weak, tmp_path)  # the scale says what its last colour stands for


def test_a_map_against_a_foil_is_drawn_on_a_scale_of_a_fifth(tmp_path):
    values = np.full((4, 4), 4, np.float32)  # enough for its verdict
    whole, foil = attribution(image_map=values), attribution(image_map=values, image_score=np.nan, text_score=np.nan)
    assert (whole.image_top, foil.image_top) == (NATS_FLOOR, NATS_FLOOR / 5) and foil.verdict == "ok"
    (_, warm), (_, hot) = hue_areas(pair_figure(whole, BLUE)), hue_areas(pair_figure(foil, BLUE))
    assert hot > 100_000 and warm < 0.5 * hot
    assert replace(foil, image_map=10 * values).image_top == 40


def test_a_picture_says_what_its_caption_was_explained_against(tmp_path):
    assert attribution().text in texts(attribution(), tmp_path)
    said = texts(replace(attribution(), settings={"against": "a blue one"}), tmp_path)
    assert f"{attribution().text}, rather than a blue one" in said


def test_a_map_that_should_not_be_believed_has_a_banner_and_no_colours(monkeypatch, tmp_path):
    lost = attribution(image_score=0.01, text_score=0.24)
    said = texts(lost, tmp_path)
    assert "Doubtful: similarity lost (picture)" in said and any("Remedy: " in line for line in said)
    assert not any(line.startswith("Doubtful") for line in texts(attribution(), tmp_path))
    whole = np.full((4, 4), 50, np.float32)
    maps = (replace(a, text_map=None, image_map=whole) for a in (attribution(), lost))
    (_, warm), (_, grey) = (hue_areas(pair_figure(a, BLUE)) for a in maps)
    assert grey < 0.1 * warm  # what is left is the ink of the banner
    doubted = grounds(monkeypatch, 80.0, text_score=0.01)
    assert np.ptp(doubted) == 0 and doubted.max() < 0.7
    nothing = attribution(stop_reason="non_finite", image_map=None, text_map=None)
    assert "Doubtful: not finite" in texts(nothing, tmp_path)
