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
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, Error, Page, async_playwright
from rich.console import Console
from rich.table import Table

from m2ib_lightning.data import make_scene

NAMES = ("clock", "owl", "crab", "tree", "key", "cat", "guitar", "mushroom", "penguin", "umbrella")
FIRST = "a photo of a cat"

COLLECT = """() => {
    window.captions = new Set(), window.pictures = new Set(), window.errors = new Set(), window.moved = 0;
    const look = (records) => {
        // Of a moved slider the first answer is there for a moment only, and then the exact one.
        window.moved += records.filter(of => of.attributeName === 'data-state' && of.oldValue === 'first').length;
        window.captions.add([...document.querySelectorAll('#view .word b')].map(word => word.textContent).join(' '));
        window.pictures.add(document.querySelector('#view .picture').src);
    };
    const all = {childList: true, subtree: true, attributes: true, attributeOldValue: true};
    new MutationObserver(look).observe(document.querySelector('#view'), all);
    new MutationObserver(() => {
        for (const said of document.querySelectorAll('.toast-body.error, #view .status.error'))
            window.errors.add(said.textContent.trim());
    }).observe(document.body, {childList: true, subtree: true});
}"""

MOVED = "before => window.moved > before && document.querySelector('#view [data-state=done] .word.mapped')"

ANSWERED = """caption => document.querySelector('#view [data-state=done] .word.mapped')
    && [...document.querySelectorAll('#view .word b')].map(word => word.textContent).join(' ') === caption"""


@dataclass
class Visitor:
    """One window.

    Attributes:
        name: What is in the visitor's picture and in every caption.
        page: The page.
        pictures: What may be shown as the picture: the example of the beginning, and the visitor's own.
        answers: How many there were.
        errors: What failed.
        wrong: What was shown that is another's.
    """

    name: str
    page: Page
    pictures: list[str | None]
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def enter(browser: Browser, url: str, number: int, folder: Path) -> Visitor:
    """Open the page, wait for its first answer and upload a picture."""
    name, file = NAMES[number % len(NAMES)], folder / f"{number}.png"
    make_scene(number, objects=(name, "moon"), size=256).image.save(file)
    page = await (await browser.new_context(viewport={"width": 1280, "height": 900})).new_page()
    page.set_default_timeout(300_000)
    await page.goto(url)
    await page.wait_for_function(ANSWERED, arg=FIRST)
    await page.evaluate(COLLECT)
    shown = await page.get_attribute("#view .picture", "src")
    await page.fill("#caption :is(textarea, input)", "")
    await page.set_input_files("#picture input[type=file]", file)
    await page.wait_for_function("old => document.querySelector('#view .picture').src !== old", arg=shown)
    await page.click("button:has-text('Save')")
    visitor = Visitor(name, page, [shown, await page.get_attribute("#view .picture", "src")])
    page.on("pageerror", lambda error: visitor.errors.append(str(error)))
    return visitor


async def click(visitor: Visitor, until: float) -> None:
    """Ask for one caption after another and move the slider after each, until it is time to go."""
    name, page = visitor.name, visitor.page
    while time.monotonic() < until:
        turn = visitor.answers // 2 % 3
        caption = (f"a {name}", f"there is a {name}", f"a {name} here")[turn]
        try:
            await page.fill("#caption :is(textarea, input)", caption)
            await page.click("#explain")
            await page.wait_for_function(ANSWERED, arg=caption)
            await move_beta(page, (2.0, 6.0, 9.0)[turn])
            visitor.answers += 2
            if turn == 0:
                await page.click("#save")
        except Error as problem:  # no answer in five minutes: the others go on
            visitor.errors.append(problem.message.splitlines()[0])
            break
    captions, pictures, said = await page.evaluate(
        "[window.captions, window.pictures, window.errors].map(found => [...found])"
    )
    visitor.errors += said
    visitor.wrong += [caption for caption in captions if caption not in ("", FIRST) and name not in caption]
    visitor.wrong += ["a picture" for picture in pictures if picture not in ("", *visitor.pictures)]


async def move_beta(page: Page, beta: float) -> None:
    """Ask for another beta, and wait for the exact answer."""
    number, before = page.locator("#beta input[type=number]"), await page.evaluate("window.moved")
    await number.fill(f"{beta:g}")
    await number.press("Tab")
    await page.wait_for_function(MOVED, arg=before)


def memory_of(server: int) -> float:
    """Resident megabytes of the server."""
    status = Path(f"/proc/{server}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


async def watch_memory(server: int, until: float) -> list[float]:
    """That every two seconds."""
    found = []
    while time.monotonic() < until:
        found.append(memory_of(server))
        await asyncio.sleep(2)
    return found


async def run(url: str, server: int, visitors: int, seconds: float) -> tuple[list[Visitor], list[float]]:
    """All visitors at once, and the server's memory from the start to the end."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with tempfile.TemporaryDirectory() as folder:
            entered = await asyncio.gather(*(enter(browser, url, i, Path(folder)) for i in range(visitors)))
            until = time.monotonic() + seconds
            memory = asyncio.create_task(watch_memory(server, until))
            await asyncio.gather(*(click(visitor, until) for visitor in entered))
        await browser.close()
    return entered, [*await memory, memory_of(server)]


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
            found, memory = asyncio.run(run(url, server.pid, options.visitors, options.seconds))
        finally:
            server.send_signal(signal.SIGINT)
    table = Table("visitor", "answers", "errors", "another's", title=f"{options.seconds:g} seconds")
    for who in found:
        table.add_row(who.name, str(who.answers), str(len(who.errors)), str(len(who.wrong)))
    errors, wrong = [said for who in found for said in who.errors], [said for who in found for said in who.wrong]
    table.add_section()
    table.add_row("all", str(sum(who.answers for who in found)), str(len(errors)), str(len(wrong)))
    thirds = [f"{memory[int(share * (len(memory) - 1))]:.0f}" for share in (0, 1 / 3, 2 / 3, 1)]
    Console().print(table)
    print(f"Megabytes of the server at the start and after each third: {', '.join(thirds)}; at most {max(memory):.0f}")
    print(
        "\n".join([*errors, *(f"Another's: {said}" for said in wrong)])
        or "Nothing failed, and nobody saw what was another's."
    )
    sys.exit(bool(errors or wrong))


if __name__ == "__main__":
    main()
