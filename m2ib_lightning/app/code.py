"""What is on the page as something to paste: a call in Python and a command."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Mapping
from typing import Any

from m2ib_lightning.app.pictures import SIDE


def as_python(source: str, reduced: bool, text: str, arguments: Mapping[str, Any]) -> str:
    """The call that gives what is on the page.

    Args:
        source: The picture's file, or an expression that makes it if it has a parenthesis.
        reduced: Whether the page has made the picture smaller.
        text: The caption that was typed.
        arguments: The arguments of `explain` that are not the default.

    Example:
        >>> print(as_python("cat.jpg", False, "a cat", {"image_beta": 3.0}))
        import m2ib_lightning as m2ib
        <BLANKLINE>
        result = m2ib.explain("cat.jpg", "a cat", image_beta=3.0)[0]
        print(result.words(), result.image_map)
    """
    lines, picture = ["import m2ib_lightning as m2ib"], _quoted(source)
    if "(" in source:
        lines.append("from m2ib_lightning.data import make_scene")
        picture = source
    lines.append("")
    if reduced:
        lines[1:1] = ["from m2ib_lightning.data.images import load_image"]
        lines += [f"picture = load_image({picture})", f"picture.thumbnail(({SIDE}, {SIDE}), 1, 2)  # as the page does"]
        picture = "picture"
    said = "".join(f", {name}={_quoted(value)}" for name, value in arguments.items())
    lines += [f"result = m2ib.explain({picture}, {_quoted(text)}{said})[0]", "print(result.words(), result.image_map)"]
    return "\n".join(lines)


def as_command(source: str, reduced: bool, text: str, arguments: Mapping[str, Any]) -> str:
    r"""The commands that do the same; a foil, and phrases by themselves, are said in a table.

    Example:
        >>> print(as_command("cat.jpg", False, "it's a cat", {"image_beta": 3.0}))
        m2ib fit --data.image cat.jpg --data.text 'it'"'"'s a cat' \
            --model.image_beta 3.0
        >>> print(as_command("cat.jpg", False, "a cat", {"against": "a dog", "phrases": "auto"}))
        printf '%s\n' image,text,against 'cat.jpg,a cat,a dog' > pair.csv
        m2ib fit --data.source pair.csv \
            --phrases auto
        >>> print(as_command("cat.jpg", False, "a cat", {"phrases": ["cat", (0, 1)]}))
        printf '%s\n' image,text,phrases 'cat.jpg,a cat,"[""cat"", [0, 1]]"' > pair.csv
        m2ib fit --data.source pair.csv
    """
    made = "(" in source or reduced
    file, named = "picture.png" if made else source, dict(arguments)
    lines = ["# picture.png is among the files to save"] * made
    said = f"--data.image {shlex.quote(file)} --data.text {shlex.quote(text)}"
    cells = {"against": named.pop("against")} if "against" in named else {}
    if isinstance(named.get("phrases"), list):
        cells["phrases"] = json.dumps(named.pop("phrases"), ensure_ascii=False)
    if cells:
        table = io.StringIO()
        csv.writer(table, lineterminator="").writerow([file, text, *cells.values()])
        lines.append(f"printf '%s\\n' {','.join(['image', 'text', *cells])} {shlex.quote(table.getvalue())} > pair.csv")
        said = "--data.source pair.csv"
    for name, value in named.items():
        said += f" \\\n    --{name if name == 'phrases' else f'model.{name}'} {shlex.quote(str(value))}"
    return "\n".join([*lines, f"m2ib fit {said}"])


def _quoted(value: Any) -> str:
    """A value in Python; texts in double quotes where that needs no escapes."""
    if isinstance(value, str) and value.isprintable() and not set(value) & {'"', "\\"}:
        return f'"{value}"'
    return repr(value)
