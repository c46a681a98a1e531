"""The pages of the project, taken apart: links, headings, blocks of code and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "scripts" / "README.md", *sorted(ROOT.glob("m2ib_lightning/**/README.md"))]


def name(page: Path) -> str:
    """A page's path in the project, which tests are named by."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of code of one language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def block(page: str, kind: str, holding: str) -> str:
    """The one block of code of a page that holds something."""
    (found,) = (code for code in blocks(ROOT / page, kind) if holding in code)
    return found


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, code left out."""
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in an address."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page: in its shell blocks, and within a line where a program of ours is called."""
    text = page.read_text("utf-8")
    within = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for code in blocks(page, "bash") for line in code.replace("\\\n", " ").splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`((?:m2ib|python scripts/)[^`]*)`", within)]
    for line in lines:
        if words := shlex.split(line, comments=True):
            yield words
