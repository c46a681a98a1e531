"""The page as a visitor sees it, in a real browser."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from PIL import Image

import m2ib_lightning as m2ib
from m2ib_lightning.data import make_scene
from tests.app.conftest import answered, give

pytestmark = pytest.mark.slow  # a browser, and a fit for every answer


def values(page):
    """The words with what stands below them."""
    return page.evaluate(
        "[...document.querySelectorAll('#view .word')].map(w => [w.children[0].textContent, w.children[1].textContent])"
    )


def heat(page):
    """(H, W) opacities of the map that is drawn."""
    width, cells = page.evaluate(
        """() => { const c = document.querySelector('#view .heat'), area = [0, 0, c.width, c.height];
        return [c.width, [...c.getContext('2d').getImageData(...area).data].filter((_, i) => i % 4 == 3)] }"""
    )
    return np.array(cells).reshape(-1, width)


def shows_top(page, value):
    """Wait until the scale of the finished map ends at a value, of which below 10 two digits are shown."""
    page.wait_for_function(
        """value => Math.abs(parseFloat(document.querySelector('#view .top').textContent) / value - 1)
        < (value < 10 ? 0.05 : 0.01) && document.querySelector('#view [data-state=done]')""",
        arg=float(value),
    )


def choose(page, tab):
    """Open a tab; where there is no room it is in a menu."""
    if not page.locator(f"button[role=tab]:visible:text-is('{tab}')").count():
        page.click(".overflow-menu > button")
    page.click(f":is(button[role=tab], .overflow-dropdown button):visible:text-is('{tab}')")


def test_the_first_visit_explains_an_example_and_asks_nothing_of_another_host(visit, address):
    page = visit()
    assert [word for word, _ in values(page)] == ["a", "photo", "of", "a", "cat"]
    assert max(values(page), key=lambda word: float(word[1]))[0] == "cat"
    assert all(url.startswith((address, "data:", "blob:")) for url in page.asked)


def test_a_picture_of_ones_own_gives_what_explain_gives(visit, crab):
    page = visit()
    give(page, crab, "a crab here")
    answered(page, "a crab here")
    expected = m2ib.explain(str(crab), "a crab here")[0]
    shows_top(page, expected.image_map.max())
    assert [word for word, _ in values(page)] == [word for word, _ in expected.words()]
    shown = [float(nats) for _, nats in values(page)]
    assert shown == pytest.approx([nats for _, nats in expected.words()], abs=0.6)
    assert f"{expected.score:.2f}" in page.inner_text("#view .scores")


def test_the_code_that_is_copied_runs_to_the_same_numbers(visit, crab, monkeypatch):
    page = visit()
    give(page, crab, 'a "red crab"')
    page.wait_for_function("[...document.querySelectorAll('#view .word b')].some(word => word.textContent === 'red')")
    page.wait_for_selector("#view [data-state=done] .word.mapped")
    page.click("text=Copy as code")
    page.wait_for_selector("#python .cm-line >> text=explain")
    code = "\n".join(page.locator("#python .cm-line").all_inner_texts())
    assert "m2ib fit --data.image crab.png --data.text 'a \"red crab\"'" in page.inner_text("#command")
    monkeypatch.chdir(crab.parent)
    said = {}
    exec(code, said)
    shows_top(page, said["result"].image_map.max())
    assert [word for word, _ in values(page)] == [word for word, _ in said["result"].words()]


def test_masks_are_seen_while_they_evolve_and_can_be_played_again(visit):
    page = visit()
    page.evaluate(
        """() => { const status = document.querySelector('#view .status'); window.seen = new Set();
        new MutationObserver(() => window.seen.add(status.textContent))
        .observe(status, {childList: true, characterData: true, subtree: true}) }"""
    )
    page.click("#explain")
    page.wait_for_function("[...window.seen].some(text => text.startsWith('Step 9'))")
    answered(page, "a photo of a cat")
    assert sum(text.startswith("Step") for text in page.evaluate("[...window.seen]")) >= 5
    last = heat(page)
    page.locator("#view .step").fill("1")
    assert (heat(page) > 150).mean() > (last > 150).mean() + 0.2  # masks begin open
    assert page.inner_text("#view .replay output") == "1 of 10"


def test_hovering_over_a_word_shows_its_region(visit, crab):
    page, scene = visit(), make_scene(3, objects=("crab", "tree", "key"), size=256)
    give(page, crab, "a crab and a tree")
    answered(page, "a crab and a tree")
    whole = heat(page)
    for index, name, other in ((1, 0, 1), (4, 1, 0)):
        page.locator("#view .word").nth(index).hover()
        region = heat(page)
        assert region[scene.labels == name].mean() > 1.5 * region[scene.labels == other].mean()
    page.hover("h1")
    np.testing.assert_array_equal(heat(page), whole)


def test_a_word_that_carries_little_is_looked_for_when_it_is_pointed_at(visit, crab):
    page, text = visit(), "a crab and a tree"
    give(page, crab, text)
    answered(page, text)
    page.evaluate(
        """() => { const says = document.querySelector('#view .shows'); window.said = [];
        new MutationObserver(() => window.said.push(says.textContent)).observe(says, {childList: true}) }"""
    )
    word = page.locator("#view .word").nth(2)
    assert "mapped" not in word.get_attribute("class")
    word.hover()
    page.wait_for_function("document.querySelectorAll('#view .word')[2].classList.contains('mapped')")
    said = ["looking for “and” …", "no region of “and” that can be believed: uninformative"]
    assert page.evaluate("window.said") == said
    (phrase,) = m2ib.explain(str(crab), text, phrases=["and"])[0].phrases
    assert phrase.verdict == "uninformative" and heat(page).max() < 10  # and so next to nothing is drawn
    page.hover("h1")
    assert page.locator("#view .word.mapped").count() == 3


def test_a_box_in_the_picture_shows_which_words_it_belongs_to(visit, crab):
    page, scene = visit(), make_scene(3, objects=("crab", "tree", "key"), size=256)
    give(page, crab, "a crab and a tree")
    answered(page, "a crab and a tree")
    area, (left, top, right, bottom) = page.locator("#view .stage").bounding_box(), scene.objects[1].box
    page.mouse.move(area["x"] + left / 256 * area["width"], area["y"] + top / 256 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + right / 256 * area["width"], area["y"] + bottom / 256 * area["height"], steps=5)
    page.mouse.up()
    assert page.locator("#view .word.spoken b").all_inner_texts() == ["tree"]
    assert dict(values(page))["tree"].endswith("%")
    page.focus("#view .stage")
    page.keyboard.press("Escape")
    assert not dict(values(page))["tree"].endswith("%")
    page.keyboard.press("ArrowLeft")
    assert page.is_visible("#view .box")


def test_moving_a_slider_gives_what_explain_gives_with_that_setting(visit, crab):
    page = visit()
    give(page, crab, "a crab")
    answered(page, "a crab")
    for settings in ({"image_beta": 12.0}, {"image_beta": 12.0, "image_layer": 0}):
        name, value = list(settings.items())[-1]
        number = page.locator(f"#{name.removeprefix('image_')} input[type=number]")
        number.fill(f"{value:g}")
        number.press("Tab")
        shows_top(page, m2ib.explain(str(crab), "a crab", **settings)[0].image_map.max())
    page.click("#trade >> text=keep")
    page.wait_for_selector("#beta", state="hidden")
    shows_top(page, m2ib.explain(str(crab), "a crab", keep=0.9, image_layer=0)[0].image_map.max())


def test_a_second_caption_is_a_foil(visit, tmp_path, monkeypatch):
    scene = make_scene(33, objects=("crab", "tree", "moon"), kind="attribute", size=384)
    scene.image.save(tmp_path / "crabs.png")
    page = visit()
    page.fill("#foil :is(textarea, input)", "a blue crab")
    give(page, tmp_path / "crabs.png", "a red crab")
    answered(page, "a red crab")
    assert page.inner_text("#view .shows") == "rather than “a blue crab”"
    drawn = heat(page)
    red, blue = (drawn[scene.labels == index].mean() for index in (0, 1))
    assert red > 1.5 * blue
    page.click("text=Copy as code")
    page.wait_for_selector("#python .cm-line >> text=explain")
    monkeypatch.chdir(tmp_path)
    said = {}
    exec("\n".join(page.locator("#python .cm-line").all_inner_texts()), said)
    shows_top(page, said["result"].image_map.max())
    np.testing.assert_allclose(
        said["result"].image_map, m2ib.explain("crabs.png", "a red crab", against="a blue crab")[0].image_map
    )


def test_a_word_for_what_is_not_there_is_crossed_out_and_the_others_are_not(visit, crab):
    page = visit()
    give(page, crab, "a crab and a piano")
    answered(page, "a crab and a piano")
    assert page.locator("#view .word.opposed b").all_inner_texts() == ["piano"]


def test_the_strength_of_the_map_changes_what_is_seen_of_it(visit):
    page = visit()
    strong = heat(page)
    page.locator("#view .strength").fill("20")
    assert 0 < heat(page).max() < 0.5 * strong.max()
    page.locator("#view .strength").fill("0")
    assert heat(page).max() == 0


def test_a_folder_is_explained_shown_and_given_back(visit, tmp_path, crab):
    rows = "image,text\ncrab.png,a crab\n/etc/hostname,a secret\nlost.png,a <b>tree</b>\n"
    (tmp_path / "pairs.csv").write_text(rows)
    page = visit()
    choose(page, "A folder or table")
    page.set_input_files("#given input[type=file]", [tmp_path / "pairs.csv", crab])
    page.wait_for_selector("#given >> text=crab")
    page.click("#run")
    page.wait_for_selector("#gallery iframe")
    assert "3 of 3 pairs" in page.inner_text("#state")
    assert "Expected 'hostname' among the uploaded files" in page.inner_text("#state")
    page.frame_locator("#gallery iframe").locator("text=a crab").first.wait_for()
    with page.expect_download() as waiting:
        page.click("#archive")
    waiting.value.save_as(tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as packed:
        assert {"gallery.html", "pictures/crab.png"} <= set(packed.namelist())
        packed.extractall(tmp_path / "out")
    store = m2ib.AttributionStore(tmp_path / "out" / "attributions")
    assert [a.text for a in store] == ["a crab"]
    assert len(list(store.errors())) == 2


def test_other_methods_stand_beside_with_what_they_take(visit):
    page = visit()
    choose(page, "Methods side by side")
    page.click("#compare")
    page.wait_for_function("document.querySelectorAll('#cards article').length === 3")
    assert page.locator("#cards h3").all_inner_texts() == ["M2IB", "Chefer", "GradECLIP"]
    assert "in nats" in page.locator("#cards article").first.inner_text()
    assert all(" s\n" in card for card in page.locator("#cards article").all_inner_texts())


def test_what_is_saved_is_the_picture_the_drawing_the_attribution_and_the_settings(visit, crab, tmp_path):
    page = visit()
    give(page, crab, "a crab")
    answered(page, "a crab")
    page.click("button:has-text('Save')")
    page.click("#save")
    page.wait_for_selector("#files a[download]")
    links, got = page.locator("#files a[download]"), {}
    for index in range(links.count()):
        with page.expect_download() as waiting:
            links.nth(index).click()
        path = tmp_path / "saved" / waiting.value.suggested_filename
        waiting.value.save_as(path)
        got[path.name] = path
    assert set(got) == {"attribution.npz", "explained.png", "explained.svg", "picture.png", "settings.yaml"}
    saved = m2ib.Attribution.load(got["attribution.npz"])
    np.testing.assert_allclose(saved.image_map, m2ib.explain(str(crab), "a crab")[0].image_map, rtol=1e-3, atol=1e-2)
    assert got["explained.svg"].read_text().startswith("<?xml")
    Image.open(got["explained.png"]).verify()


def test_two_visitors_never_see_each_others_answers(visit, tmp_path):
    pages = []
    for seed, name in ((5, "clock"), (9, "owl")):
        make_scene(seed, objects=(name, "key"), size=128).image.save(tmp_path / f"{name}.png")
        pages.append((visit(), f"a {name}", tmp_path / f"{name}.png"))
    for page, caption, file in pages:
        give(page, file, caption)
    for page, caption, file in pages:
        answered(page, caption)
        shows_top(page, m2ib.explain(str(file), caption)[0].image_map.max())


def test_a_picture_of_40_megapixels_is_explained(visit, tmp_path):
    make_scene(3, objects=("crab", "key"), size=64).image.resize((8000, 5000)).save(tmp_path / "large.jpg", quality=50)
    page = visit()
    give(page, tmp_path / "large.jpg", "a crab")
    answered(page, "a crab")
    assert page.evaluate("document.querySelector('#view .picture').naturalWidth") <= 640


def test_a_text_that_calls_itself_a_picture_is_refused_in_one_line(visit, tmp_path):
    (tmp_path / "not.jpg").write_text("hello")
    page = visit()
    page.set_input_files("#picture input[type=file]", tmp_path / "not.jpg")
    page.wait_for_selector("#view .status.error")
    expected = "Expected an image file but got not.jpg, which is none. Remedy: convert it to PNG or JPEG."
    assert page.inner_text("#view .status") == expected
    page.wait_for_timeout(500)  # what follows an upload must not take it away
    assert page.inner_text("#view .status") == expected


def test_markup_in_a_caption_is_shown_and_not_run(visit, crab):
    page = visit()
    give(page, crab, '<img src=x onerror="window.hacked=1"> crab <script>window.hacked=1</script>')
    page.wait_for_function("[...document.querySelectorAll('#view .word b')].some(w => w.textContent === 'onerror')")
    page.wait_for_selector("#view [data-state=done] .word.mapped")
    assert page.locator("#view .words :is(img, script)").count() == 0
    choose(page, "Methods side by side")
    page.click("#compare")
    page.wait_for_function("document.querySelectorAll('#cards article').length === 3")
    assert page.locator("#cards article > div :is(img, script)").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_server_that_stops_is_told_to_the_visitor_and_what_was_there_stays(visit, explainer):
    from m2ib_lightning.app.serving import serve

    blocks = serve(explainer)
    page = visit(url=blocks.local_url)
    blocks.close(verbose=False)
    page.click("#explain")
    page.wait_for_selector("text=/connection|not reached|lost/i")
    answered(page, "a photo of a cat")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_and_axe_finds_no_fault(visit, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(width=width)
    for tab in ("One pair", "Methods side by side", "A folder or table"):
        choose(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.run(page).response["violations"]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(visit):
    page = visit()
    page.focus("#caption :is(textarea, input)")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => { let names = '', e = document.activeElement;
                for (; e; e = e.parentElement) names += ` ${e.className} ${e.id}`; return names }"""
            )
        )
    wanted = (" foil", " explain", " examples", " stage", " strength", " word ", " beta", " layer")
    places = [next(i for i, name in enumerate(reached) if part in name) for part in wanted]
    assert places == sorted(places)
