"""The colours that tie words to regions, in figures and in the gallery."""

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.parts import Phrase
from m2ib_lightning.report.figure import pair_figure
from m2ib_lightning.report.gallery import save_gallery
from m2ib_lightning.report.phrases import AGAINST, FOR, coloured_regions, phrase_colours
from tests.report.browser import Browser
from tests.report.made import attribution


def phrase(text: str, span: tuple[int, int], effect: float, cell: tuple[int, int]) -> Phrase:
    image_map = np.zeros((4, 4), np.float32)
    image_map[cell] = 9
    return Phrase(text, span, effect, image_map)


def explained():
    """A cat at the upper left, no whale, whose opposite is at the lower right, and a dog at the lower left."""
    a = attribution("a cat and a whale and a dog")
    a.phrases = [
        phrase("cat", (2, 5), 0.4, (0, 0)),
        phrase("whale", (12, 17), -0.1, (3, 3)),
        phrase("dog", (24, 27), 0.3, (3, 0)),
    ]
    return a


PICTURE = Image.new("RGB", (80, 80), "#808080")


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def test_what_speaks_against_has_the_other_colour():
    assert phrase_colours(explained().phrases) == [FOR[0], AGAINST, FOR[1]]


def test_each_region_is_in_the_colour_of_its_phrase_and_the_rest_is_grey():
    drawn = np.asarray(coloured_regions(explained(), PICTURE, style="patch"), dtype=int)
    for (y, x), colour in (((10, 10), FOR[0]), ((70, 70), AGAINST), ((70, 10), FOR[1])):
        nearest = min((*FOR, AGAINST), key=lambda c: np.abs(drawn[y, x] - rgb(c)).sum())
        assert nearest == colour
    assert np.ptp(drawn[40, 40]) == 0


def test_a_phrase_alone_keeps_its_colour():
    a = explained()
    alone = np.asarray(coloured_regions(a, PICTURE, [a.phrases[2]], style="patch"), dtype=int)
    assert np.ptp(alone[10, 10]) == 0
    together = np.asarray(coloured_regions(a, PICTURE, style="patch"), dtype=int)
    np.testing.assert_array_equal(alone[70, 10], together[70, 10])


def test_the_figure_of_a_pair_with_phrases_shows_their_colours():
    without = explained()
    without.phrases = []
    drawn, plain = (np.asarray(pair_figure(a, PICTURE)) for a in (explained(), without))
    for colour in (FOR[0], FOR[1], AGAINST):
        assert (drawn == rgb(colour)).all(-1).any() and not (plain == rgb(colour)).all(-1).any()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def test_a_word_shows_its_region_and_a_region_its_words(browser, tmp_path):
    save_gallery([explained()], tmp_path / "page.html", lambda a: PICTURE)
    browser.open(tmp_path / "page.html")
    assert browser.run("document.querySelector('.caption').textContent") == "a cat and a whale and a dog"
    wait = "await new Promise(done => setTimeout(done, 200));"
    centre = """
      const canvas = document.getElementById('phrases'), n = canvas.width
      const all = canvas.getContext('2d').getImageData(0, 0, n, n).data
      const at = (x, y) => [...all].slice(4 * (Math.floor(y * n) * n + Math.floor(x * n))).slice(0, 3)
      const spread = p => Math.max(...p) - Math.min(...p)
    """
    over_dog = f"""(async () => {{
      [...document.querySelectorAll('.phrase')].find(p => p.textContent === 'dog').onmouseenter(); {wait} {centre}
      return [spread(at(.12, .12)), spread(at(.12, .88))]
    }})()"""
    cat, dog = browser.run(over_dog)
    assert cat <= 2 < 50 < dog
    over_cat = """(async () => {
      const canvas = document.getElementById('phrases')
      canvas.onmousemove({offsetX: .1 * canvas.clientWidth, offsetY: .1 * canvas.clientHeight})
      return [...document.querySelectorAll('.phrase')].map(p => +p.style.opacity)
    })()"""
    assert browser.run(over_cat) == [1, 0.25, 0.25]
    assert "+0.4" in browser.run("document.querySelector('section figcaption').textContent")
    assert not browser.messages
