"""Numbers, texts, words and colours as people see them, against values worked out by hand."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.display import (
    attribution_html,
    blend,
    chips,
    colours,
    cut,
    decimals,
    on_no_word,
    shorten,
    words_html,
)
from tests.made import attribution


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), ".0f"), ((0.0,), ".0f"), ((float("nan"),), ".0f"), ((2.0, float("inf")), ".0f"),
        ((1.0,), ".2f"), ((9.99,), ".2f"), ((10.0,), ".1f"), ((-12.0, 3.0), ".1f"), ((100.0,), ".0f"),
        ((99_999.0,), ".0f"), ((100_000.0,), ".1e"), ((0.01,), ".4f"), ((0.0099,), ".1e"),
    ],
)  # fmt: skip
def test_the_largest_of_the_values_has_three_digits(values, expected):
    assert decimals(*values) == expected


def test_words_are_darker_by_the_root_of_their_share_of_the_top():
    made = chips([("a", 80.0), ("b", 20.0), ("c", -3.0)], "nats")
    assert [(chip.word, chip.label, chip.shade) for chip in made] == [
        ("a", "80.0", 1),
        ("b", "20.0", 0.5),
        ("c", "-3.0", 0),
    ]
    assert [chip.shade for chip in chips([("a", 5.0)], "nats")] == [0.5]  # of the 20 nats that are the least
    assert [chip.shade for chip in chips([("a", 0.25), ("b", 1.0)], "cos")] == [0.5, 1]
    assert [chip.shade for chip in chips([("a", 0.25)], "cos")] == [1]
    assert [(chip.shade, chip.label) for chip in chips([("a", 0.0)], "cos")] == [(0, "0")]
    given = chips([("a", 0.5), ("b", 400.0), ("c", 25.0)], "nats", 100.0)
    assert [(chip.shade, chip.label) for chip in given] == [(0.005**0.5, "0"), (1, "400"), (0.5, "25")]
    assert chips([], "nats") == []


def test_a_text_that_is_too_wide_loses_as_little_of_its_middle_as_it_must():
    text = "abcdefghijklmnopqrstuvwxyz1234"
    assert cut(text, 30, len) == text and cut(text, 29.5, len) == "abcdefghijklmn…rstuvwxyz1234"
    assert cut(text, 11, len) == "abcde…z1234" and cut(text, 10, len) == "abcde…1234"
    assert cut(text, 0, len) == "a…"
    asked = []
    assert len(cut("x" * 10_000, 30, lambda shown: asked.append(shown) or len(shown))) in (29, 30)
    assert len(asked) < 150


def test_a_text_of_just_the_length_is_left_whole():
    assert shorten("abcdef", 6) == "abcdef" and shorten("abcdefg", 6) == "abc…fg" and shorten("abcdefg", 5) == "ab…fg"


@pytest.mark.parametrize("name", ["inferno", "gray"])
def test_heat_covers_the_picture_by_the_root_of_how_much_there_is(name):
    from matplotlib import colormaps

    heat = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    picture = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    for opacity, made in ((0.9, blend(picture, heat, name)), (0.5, blend(picture, heat, name, 0.5))):
        weight = opacity * np.sqrt(heat)[..., None]
        expected = 255 * ((1 - weight) * picture + weight * colormaps[name](heat)[..., :3])
        found = np.asarray(made).astype(float)
        assert np.abs(found - expected).max() < 0.501  # rounded
    assert colours(name).shape == (256, 3)


def test_what_lies_on_special_tokens_is_said_where_there_is_anything():
    assert on_no_word(attribution()) == "<s> 9.00, </s> 9.00"
    values = np.array([0, 1, 2, 3, 4, 5, 6, 283], np.float32)
    assert on_no_word(attribution(text_map=values)) == "</s> 283"
    assert on_no_word(attribution(text_map=np.zeros(8, np.float32))) == on_no_word(attribution(text_map=None)) == ""


def sizes(page: str) -> list[tuple[int, int]]:
    """Of the pictures of a page."""
    return [Image.open(io.BytesIO(base64.b64decode(data))).size for data in re.findall(r"base64,([^']+)", page)]


def test_a_notebook_shows_the_verdict_where_it_is_bad_the_map_and_the_words(tmp_path):
    good = {"image_score": 0.5, "text_score": 0.5, "image_map": np.full((2, 4), 30, np.float32), "source": ""}
    good |= {"history": {}, "text": "an <ice> van", "spans": [(0, 0), (0, 2), (3, 8), *[(9, 12)] * 4, (0, 0)]}
    page = attribution_html(attribution(**good))
    assert sizes(page) == [(320, 160)]  # of the map's proportions, where there is no picture
    assert sizes(attribution_html(attribution(**good | {"image_map": np.ones((4, 2), np.float32)}))) == [(160, 320)]
    assert "<b>an &lt;ice&gt; van</b>" in page and "&lt;ice&gt;</span>" in page and "Doubtful" not in page
    bad = attribution_html(attribution(**good | {"image_match": 0.0}))
    assert "<b>Doubtful: no match.</b> The model finds this pair no more similar" in bad
    grey = f"rgb{(150, 150, 150)}"
    assert grey not in page and page.count("rgb(") == 3 and bad.count("rgb(") == 3
    Image.new("RGB", (30, 60), "red").save(tmp_path / "red.png")
    assert sizes(attribution_html(attribution(**good | {"source": str(tmp_path / "red.png")}))) == [(160, 320)]
    assert sizes(attribution_html(attribution(**good | {"image_map": None}))) == []
    assert "nats per word" in page and "nats per word" not in attribution_html(attribution(**good | {"text_map": None}))
    assert page.endswith("; ok)</div>")


def test_words_have_their_value_below_and_their_mask_where_the_mouse_points():
    page = words_html([("a", 10.0, 0.25), ("cat", 40.0, float("nan"))], unit="cos")
    assert page.count("title='mask value") == 1 and "title='mask value 0.25'" in page and " cos per word" in page
    assert "rgb(245, 132, 60)" in page and "rgb(250, 194, 158)" in page and "rgb(150" not in page
    assert ">40.0</small>" in page and ">10.0</small>" in page and page.startswith("<div style='font:16px")
    doubtful = words_html([("a", 1.0, 0.5)], 1.0, "Cats & dogs", doubtful=True)
    assert "rgb(150, 150, 150)" in doubtful and "Cats &amp; dogs" in doubtful and " nats per word" in doubtful
