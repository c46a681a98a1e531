import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main as m2ib
from m2ib_lightning.data import make_scene
from m2ib_lightning.report.gallery import save_gallery, save_run_gallery
from m2ib_lightning.types import BadPair
from tests.report.browser import Browser
from tests.report.made import attribution

HISTORY = {
    name: np.linspace(4, 0.1, 10, dtype=np.float32)
    for name in ("loss/total", "image/compression", "image/relevance", "text/compression", "text/relevance")
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def data_of(page: Path) -> dict:
    """What the page holds, as a browser would read it: up to the first end of its script."""
    script = page.read_text("utf-8").split('<script id="data" type="application/json">')[1]
    return json.loads(script.split("</script")[0])


def texts(browser: Browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('.row')].sort((a, b) => a.dataset.place - b.dataset.place)"
                       ".map(row => row.querySelector('div').title)")  # fmt: skip


def say(browser: Browser, code: str) -> list[str]:
    """Do something in the page; the texts that are listed then."""
    browser.run(code)
    return texts(browser)


def test_maps_and_words_are_kept_to_a_255th_and_as_text(tmp_path):
    image_map = np.random.default_rng(0).normal(0, 40, (3, 5)).astype(np.float32)
    save_gallery([attribution("two words", image_map=image_map)], tmp_path / "page.html")
    pair = data_of(tmp_path / "page.html")["pairs"][0]
    kept = pair["map"]
    cells = np.frombuffer(base64.b64decode(kept["cells"]), np.uint8).reshape(kept["rows"], -1)
    found = kept["low"] + cells / 255 * (kept["high"] - kept["low"])
    # Half of a 255th of the range, and the four digits that its ends are kept to.
    assert np.abs(found - image_map).max() <= np.ptp(image_map) * (0.5 / 255 + 1e-3)
    # Roots of 1 and 2 of the 20 nats that the darkest ground stands for at least.
    assert pair["words"] == [["two", "1.00", 0.224], ["words", "2.00", 0.316]]


def test_what_was_not_explained_or_has_no_number_is_null(tmp_path):
    bare = attribution(image_map=None, text_map=None, image_score=float("nan"), text_score=float("nan"))
    made = save_gallery([bare], tmp_path / "page.html")
    pair = data_of(made.path)["pairs"][0]
    assert [pair[name] for name in ("map", "words", "imageScore", "textScore", "picture")] == [None] * 5
    assert (made.pairs, made.pictures) == (1, 0)


def test_pictures_are_found_by_their_source_and_left_out_where_they_are_not(tmp_path):
    Image.new("RGB", (600, 300), "red").save(tmp_path / "red.png")
    there, gone = attribution(source=str(tmp_path / "red.png")), attribution(source=str(tmp_path / "gone.png"))
    assert save_gallery([there, gone], tmp_path / "page.html").pictures == 1
    assert [bool(pair["picture"]) for pair in data_of(tmp_path / "page.html")["pairs"]] == [True, False]


def test_settings_that_many_pairs_share_are_kept_once(tmp_path):
    pairs = [attribution(settings={"beta": beta}) for beta in (1, 2, 1, 1)]
    data = data_of(save_gallery(pairs, tmp_path / "page.html").path)
    assert data["settings"] == [{"beta": 1}, {"beta": 2}]
    assert [pair["settings"] for pair in data["pairs"]] == [0, 1, 0, 0]


@pytest.mark.slow
def test_a_run_becomes_a_gallery_with_its_scenes_and_its_masks_step_by_step(tmp_path, capsys):
    m2ib([
        "fit", "--data.scenes=2", "--data.scene_seed=40", "--data.scene_objects=2", "--data.scene_kind=clutter",
        "--model.steps=2", "--model.noise_samples=2", "--trainer.callbacks=MaskLogger", f"--output={tmp_path}",
    ])  # fmt: skip
    capsys.readouterr()
    m2ib(["gallery", str(tmp_path)])
    assert "2 pairs, 2 with their picture" in capsys.readouterr().out
    pairs = data_of(tmp_path / "gallery.html")["pairs"]
    assert [(pair["id"], len(pair["frames"])) for pair in pairs] == [("scene-000040", 3), ("scene-000041", 3)]
    first = make_scene(40, 2, kind="clutter").image
    again = save_gallery(AttributionStore(tmp_path / "attributions"), tmp_path / "other.html", lambda a: first)
    assert data_of(again.path)["pairs"][0]["picture"] == pairs[0]["picture"]


def test_a_folder_without_attributions_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(ValueError, match="Expected attributions in"):
        save_run_gallery(tmp_path)
    with pytest.raises(SystemExit):
        m2ib(["gallery", str(tmp_path)])
    assert "Remedy: name a folder" in capsys.readouterr().err


def test_pairs_are_filtered_and_sorted(browser, tmp_path):
    pairs = [
        attribution("a red cat", id="one", score=0.3, image_score=0.3, text_score=0.1),  # drop 0.2, disagreement 0.2
        attribution("a blue cat", id="two", score=0.5, image_score=0.4, text_score=0.5),  # 0.1, 0.1
        attribution("a red dog", id="three", score=0.1, image_score=0.6, text_score=0.1),  # 0.0, 0.5
        attribution("a dog", id="four", score=0.4, image_score=float("nan"), text_score=float("nan")),
    ]
    browser.open(save_gallery(pairs, tmp_path / "page.html").path)
    assert texts(browser) == ["a red cat", "a blue cat", "a red dog", "a dog"]
    chosen = "sort.value = '{}'; sort.onchange()"
    assert say(browser, chosen.format("similarity")) == ["a blue cat", "a dog", "a red cat", "a red dog"]
    assert say(browser, chosen.format("drop")) == ["a red cat", "a blue cat", "a red dog", "a dog"]
    assert say(browser, chosen.format("disagreement")) == ["a red dog", "a red cat", "a blue cat", "a dog"]
    # The other way round, and what has no value is still last.
    assert say(browser, "turn.click()") == ["a blue cat", "a red cat", "a red dog", "a dog"]
    assert say(browser, "filter.value = 'RED a'; filter.oninput()") == ["a red cat", "a red dog"]
    assert say(browser, "filter.value = 'four'; filter.oninput()") == ["a dog"]
    assert say(browser, "filter.value = 'bird'; filter.oninput()") == []
    assert browser.run("document.getElementById('count').textContent") == "0 of 4 pairs"


def test_a_pair_says_what_it_was_explained_against(browser, tmp_path):
    pairs = [attribution("a red cat", id="foil", settings={"against": "a blue cat"}), attribution("a dog", id="plain")]
    browser.open(save_gallery(pairs, tmp_path / "page.html").path)
    assert texts(browser) == ["a red cat, rather than a blue cat", "a dog"]
    assert browser.run("document.querySelector('#pair h1').textContent") == "a red cat, rather than a blue cat"
    assert say(browser, "filter.value = 'blue'; filter.oninput()") == ["a red cat, rather than a blue cat"]


def test_pairs_that_were_scored_are_sorted_by_a_metric_and_show_their_scores(browser, tmp_path):
    metrics = [{"image/PointingGame": 1.0}, {"image/PointingGame": 0.25}, {"image/PointingGame": float("nan")}, {}]
    pairs = [attribution(f"pair {i}", id=str(i), metrics=found) for i, found in enumerate(metrics)]
    browser.open(save_gallery(pairs, tmp_path / "page.html").path)
    sort = "sort.value = 'image/PointingGame'; sort.onchange()"
    assert say(browser, sort) == ["pair 0", "pair 1", "pair 2", "pair 3"]
    assert say(browser, "turn.click()")[:2] == ["pair 1", "pair 0"]
    shown = "document.getElementById('pair').innerText"
    browser.run("document.querySelectorAll('.row')[0].click()")
    assert "scores" in browser.run(shown) and "0.25" in browser.run(shown)
    browser.run("document.querySelectorAll('.row')[3].click()")
    assert "scores" not in browser.run(shown)


def test_a_click_and_a_key_show_a_pair_with_its_words_curves_and_masks(browser, tmp_path):
    frame = tmp_path / "step-0000.png"
    Image.new("RGB", (40, 20), "red").save(frame)
    pairs = [attribution("first words", id="a/1"), attribution("other words", id="b", history=HISTORY)]
    page = save_gallery(pairs, tmp_path / "page.html", lambda a: Image.new("RGB", (96, 64)), {"b": [frame, frame]}).path
    browser.open(page)
    shown = "document.getElementById('pair').innerText"
    assert "a/1" in browser.run(shown)
    browser.run("document.querySelectorAll('.row')[1].click()")
    found = browser.run(shown)
    for part in ("b", "other", "words", "similarity 0.250", "loss/total", "4 → 0.1", "10 steps, max steps"):
        assert part in found
    assert browser.run("document.querySelectorAll('#pair svg').length") == 5
    assert browser.run("[...document.querySelectorAll('#pair input')].map(slider => slider.max)") == ["1"]
    browser.run("list.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))")
    assert "first" in browser.run(shown) and browser.run("location.hash") == "#a%2F1"


@pytest.mark.parametrize(
    ("style", "view", "top", "image_match"),
    [
        ("smooth", (0.0, 0.0, 1.0, 1.0), 40, 3.0),
        ("patch", (0.25, 0.0, 0.75, 1.0), 40, 3.0),
        ("smooth", (0.25, 0.0, 0.75, 1.0), 40, 0.0),  # not to be believed: in greys
        ("patch", (0.0, 0.0, 1.0, 1.0), 1, 3.0),  # some nats: dark
    ],
)
def test_the_page_draws_what_overlay_draws(browser, tmp_path, style, view, top, image_match):
    scene = make_scene(3)
    image_map = np.random.default_rng(1).gamma(0.5, top, (6, 8)).astype(np.float32)
    a = attribution(image_map=image_map, view=view, image_match=image_match)
    browser.open(save_gallery([a], tmp_path / "page.html", lambda _: scene.image).path)
    if style == "patch":
        browser.run("exact.click()")
    browser.run("paint(document.getElementById('overlay'), data.pairs[0], 96, true)")
    pixels = browser.run(
        "Array.from(document.getElementById('overlay').getContext('2d').getImageData(0, 0, 96, 96).data)"
    )
    found = np.array(pixels, float).reshape(96, 96, 4)[..., :3]
    expected = np.asarray(a.overlay(scene.image, style=style), float)
    # The picture is lossy in the page (WebP), and cells are kept to a 255th: a few levels of 255.
    assert np.abs(found - expected).mean() < 3
    assert np.abs(found - expected).max() < 40


def test_on_a_narrow_screen_the_map_comes_first_and_takes_more_room_than_the_list(browser, tmp_path):
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    try:
        made = save_gallery(
            [attribution(), attribution()], tmp_path / "page.html", lambda a: Image.new("RGB", (96, 64))
        )
        browser.open(made.path)
        top = "document.querySelector('{}').getBoundingClientRect().{}"
        overlay, picture, listed = (
            browser.run(top.format(name, "top")) for name in ("#overlay", "figure:not(.map) canvas", "#list")
        )
        assert overlay < picture and overlay < listed
        assert browser.run("document.getElementById('list').clientHeight") < 0.35 * 844
        assert browser.run("document.documentElement.scrollWidth") == 390
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_pairs_carry_their_verdict_and_are_filtered_by_it(browser, tmp_path):
    pairs = [attribution("fine"), attribution("lost", text_score=0.0), attribution("gone", image_match=0.1)]
    made = save_gallery([*pairs, BadPair("b", "unread", "gone.png", "Expected.")], tmp_path / "page.html")
    browser.open(made.path)
    options = "[...verdict.options].map(option => option.textContent)"
    assert browser.run(options) == ["all", "ok (1)", "no match (1)", "similarity lost (1)", "bad (1)"]
    badges = "[...document.querySelectorAll('.row output')].map(found => found.innerText.split('\\n').at(-1))"
    assert browser.run(badges) == ["ok", "similarity lost", "no match", "bad"]
    assert say(browser, "verdict.value = 'similarity_lost'; verdict.onchange()") == ["lost"]
    browser.run("document.querySelector('.row').click()")
    shown = browser.run("document.querySelector('.banner').innerText")
    assert shown.startswith("Doubtful: similarity lost (caption).") and "Remedy: " in shown
    assert say(browser, "verdict.value = ''; verdict.onchange()") == ["fine", "lost", "gone", "unread"]


def test_a_bad_pair_is_listed_in_its_place_with_its_reason(browser, tmp_path):
    bad = BadPair("b", "a cat", "gone.png", "Expected an image file. Remedy: correct the path.")
    made = save_gallery([attribution("first"), bad, attribution("last")], tmp_path / "page.html")
    browser.open(made.path)
    assert texts(browser) == ["first", "a cat", "last"] and made.pairs == 3
    browser.run("document.querySelectorAll('.row')[1].click()")
    shown = browser.run("document.getElementById('pair').innerText")
    assert "a cat" in shown and "gone.png" in shown and bad.error in shown
    browser.run("sort.value = 'similarity'; sort.onchange()")
    assert texts(browser)[-1] == "a cat" and browser.messages == []


def test_a_text_cannot_run_as_code(browser, tmp_path):
    bad = "</script><img src=x onerror=alert(1)><script>document.title='gone'</script>"
    browser.open(save_gallery([attribution(bad)], tmp_path / "page.html").path)
    assert texts(browser) == [bad] and browser.run("document.title") == "Attributions"
    assert browser.run("document.images.length") == 0


@pytest.mark.slow
def test_2000_pairs_open_and_nothing_is_asked_for(browser, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [make_scene(seed, size=192).image for seed in range(20)]
    pairs = [
        attribution(
            f"caption {i} of a picture in which a cat sits near a sofa and a lamp", id=f"pair-{i}", history=HISTORY,
            image_map=rng.gamma(0.3, 30, (14, 14)).astype(np.float32), score=float(rng.uniform(0, 0.4)),
        )
        for i in range(2000)
    ]  # fmt: skip
    made = save_gallery(pairs, tmp_path / "page.html", lambda a: pictures[int(a.id[5:]) % 20])
    browser.open(made.path)
    assert made.path.stat().st_size < 20e6
    assert browser.run("document.querySelectorAll('.row').length") < 40
    assert say(browser, "list.scrollTop = 1e9; drawRows()")[-1].startswith("caption 1999 ")
    asked = {url.split(":")[0] for url in browser.requests}
    assert asked == {"file", "data"} and len([url for url in browser.requests if url.startswith("file")]) == 1
    assert browser.messages == []
