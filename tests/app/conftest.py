"""One server and one Chromium for all tests of the page; every test has a window of its own."""

from __future__ import annotations

import shutil

import pytest

from m2ib_lightning.data import make_scene
from tests.report.browser import NAMES

pytest.importorskip("gradio", reason='gradio is not installed: pip install "m2ib_lightning[app]"')
MILLISECONDS = 60_000  # for one answer; a machine that is busy with other things is slow


@pytest.fixture(scope="session")
def explainer():
    from m2ib_lightning.app.explaining import Explainer

    return Explainer()


@pytest.fixture(scope="session")
def address(explainer):
    from m2ib_lightning.app.serving import serve

    blocks = serve(explainer)
    yield blocks.local_url
    blocks.close(verbose=False)


@pytest.fixture(scope="session")
def chromium():
    api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with api.sync_playwright() as playwright:
        # The page is ours: no sandbox, which containers lack.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page in a window of its own; what goes wrong in any of them fails the test."""
    wrong, contexts = [], []

    def open_page(width=1280, height=1300, url=address):
        context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        answered(page, "a photo of a cat")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def answered(page, caption):
    """Wait until the page shows the finished answer for a caption, and the regions of its words."""
    page.wait_for_function(
        """caption => {
            const words = [...document.querySelectorAll("#view .word b")].map((word) => word.textContent).join(" ");
            return words === caption && document.querySelector("#view [data-state=done] .word.mapped");
        }""",
        arg=caption,
    )


def give(page, file, caption):
    """Upload a picture and ask for a caption, as a visitor does."""
    before = page.get_attribute("#view .picture", "src")
    page.fill("#caption :is(textarea, input)", "")
    page.set_input_files("#picture input[type=file]", file)
    page.wait_for_function("old => document.querySelector('#view .picture').src !== old", arg=before)
    page.fill("#caption :is(textarea, input)", caption)
    page.click("#explain")


@pytest.fixture
def crab(tmp_path):
    """The file of a scene with a crab, a tree and a key."""
    path = tmp_path / "crab.png"
    make_scene(3, objects=("crab", "tree", "key"), size=256).image.save(path)
    return path
