#!/usr/bin/env python
"""Several visitors click on the page at once, each in a window of its own: errors, mixed-up answers, memory.

    python scripts/visitors.py --visitors 10 --seconds 120

Each uploads a picture, asks for captions that name it, moves the slider of beta and saves. All captions and pictures
that ever stand in a window are collected there, and must be its own. Needs Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from playwright.async_api import Browser, Page, async_playwright

from m2ib_lightning.data import make_scene

NAMES = ("clock", "owl", "crab", "tree", "key", "cat", "guitar", "mushroom", "penguin", "umbrella")
FIRST = "a photo of a cat"

COLLECT = """() => {
    window.captions = new Set(), window.pictures = new Set();
    const look = () => {
        window.captions.add([...document.querySelectorAll('#view .word b')].map(word => word.textContent).join(' '));
        window.pictures.add(document.querySelector('#view .picture').src);
    };
    const all = {childList: true, subtree: true, attributes: true};
    new MutationObserver(look).observe(document.querySelector('#view'), all);
}"""

ANSWERED = """caption => document.querySelector('#view [data-state=done] .word.mapped')
    && [...document.querySelectorAll('#view .word b')].map(word => word.textContent).join(' ') === caption"""


class Visitor(NamedTuple):
    """One window.

    Attributes:
        name: What is in the visitor's picture and in every caption.
        page: The page.
        pictures: What may be shown as the picture: the example of the beginning, and the visitor's own.
        wrong: What went wrong.
    """

    name: str
    page: Page
    pictures: list[str | None]
    wrong: list[str]


async def enter(browser: Browser, url: str, number: int, folder: Path) -> Visitor:
    """Open the page, wait for its first answer and upload a picture."""
    name, file = NAMES[number % len(NAMES)], folder / f"{number}.png"
    wrong: list[str] = []
    make_scene(number, objects=(name, "moon"), size=256).image.save(file)
    page = await (await browser.new_context(viewport={"width": 1280, "height": 900})).new_page()
    page.set_default_timeout(300_000)
    page.on("pageerror", lambda error: wrong.append(f"{name}: {error}"))
    await page.goto(url)
    await page.wait_for_function(ANSWERED, arg=FIRST)
    await page.evaluate(COLLECT)
    shown = await page.get_attribute("#view .picture", "src")
    await page.fill("#caption :is(textarea, input)", "")
    await page.set_input_files("#picture input[type=file]", file)
    await page.wait_for_function("old => document.querySelector('#view .picture').src !== old", arg=shown)
    await page.click("button:has-text('Save')")
    return Visitor(name, page, [shown, await page.get_attribute("#view .picture", "src")], wrong)


async def click(visitor: Visitor, until: float) -> int:
    """How many answers a visitor got."""
    name, page, own, wrong = visitor
    answers = 0
    while time.monotonic() < until:
        caption = (f"a {name}", f"there is a {name}", f"a {name} here")[answers // 2 % 3]
        await page.fill("#caption :is(textarea, input)", caption)
        await page.click("#explain")
        await page.wait_for_function(ANSWERED, arg=caption)
        await move_beta(page, (2.0, 6.0, 9.0)[answers // 2 % 3])
        answers += 2
        if answers % 6 == 2:
            await page.click("#save")
    captions, pictures = await page.evaluate("[[...window.captions], [...window.pictures]]")
    wrong += [
        f"{name} was shown {caption!r}" for caption in captions if caption not in ("", FIRST) and name not in caption
    ]
    wrong += [f"{name} was shown another's picture" for picture in pictures if picture not in ("", *own)]
    for error in await page.locator("#view .status.error, .toast-body.error").all_inner_texts():
        wrong.append(f"{name}: {error}")
    return answers


async def move_beta(page: Page, beta: float) -> None:
    """Ask for another beta, and wait for the exact answer."""
    field = page.locator("#beta input[type=number]")
    await field.fill(f"{beta:g}")
    await field.press("Tab")
    await page.wait_for_selector("#view [data-state=first]")
    await page.wait_for_selector("#view [data-state=done] .word.mapped")


async def watch_memory(server: int, until: float) -> list[float]:
    """Resident megabytes of the server every two seconds."""
    found = []
    while time.monotonic() < until:
        status = Path(f"/proc/{server}/status").read_text()
        found.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]
        await asyncio.sleep(2)
    return found


async def run(url: str, server: int, visitors: int, seconds: float) -> dict[str, Any]:
    """All visitors at once."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with tempfile.TemporaryDirectory() as folder:
            entered = await asyncio.gather(*(enter(browser, url, i, Path(folder)) for i in range(visitors)))
            until = time.monotonic() + seconds
            memory = asyncio.create_task(watch_memory(server, until))
            answers = await asyncio.gather(*(click(visitor, until) for visitor in entered))
        await browser.close()
    return {"answers": answers, "wrong": [w for visitor in entered for w in visitor.wrong], "memory": await memory}


def main() -> None:
    """Serve, let them click, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    command = [sys.executable, "-m", "m2ib_lightning", "app", "--open=false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[0]
            found = asyncio.run(run(url, server.pid, options.visitors, options.seconds))
        finally:
            server.send_signal(signal.SIGINT)
    memory = found["memory"]
    thirds = [f"{memory[int(share * (len(memory) - 1))]:.0f}" for share in (0, 1 / 3, 2 / 3, 1)]
    print(f"{sum(found['answers'])} answers, {min(found['answers'])} to {max(found['answers'])} a visitor")
    print(f"megabytes of the server after each third: {', '.join(thirds)}; at most {max(memory):.0f}")
    print("\n".join(found["wrong"]) or "nothing went wrong, and nobody saw what was another's")
    sys.exit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
