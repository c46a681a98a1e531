#!/usr/bin/env python
"""Measure every number that a page of this project quotes, and write each table into its page.

    python scripts/measure.py --list
    python scripts/measure.py                          # all of it: hours on two cores; run again, it goes on
    python scripts/measure.py --only losses samples
    python scripts/measure.py --only methods --scenes 20 --print

A table is an entry of scripts/measured.py: the commands that it needs, typed as a user would, and how their files are
shown between `<!-- measure:NAME -->` and `<!-- /measure -->` of a page. What a command wrote is kept in
outputs/measure, by the command and the embedded model, and is not made again. After a change of a default that the
command does not name: --again, which forgets the runs of the tables that are asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "m2ib_lightning" / "assets" / "embedded_clip" / "model.safetensors"


class Run(NamedTuple):
    """A command of a table.

    Attributes:
        words: What is typed. `{output}` stands for the folder that it writes to, `{scenes}` for how many scenes, and
            the name of an earlier run of the same table for the folder of that one.
        file: What it leaves in its folder; `log.txt` is what it prints.
        scenes: How many, unless fewer are asked for.
    """

    words: str
    file: str = "rows.json"
    scenes: int = 0


class Table(NamedTuple):
    """What is written between two markers of a page.

    Attributes:
        name: Of the markers.
        page: Where they are, from the root of the project.
        runs: The commands, by a name; two tables with the same command share what it wrote.
        render: From the files of the runs, by their names, to Markdown.
    """

    name: str
    page: str
    runs: Mapping[str, Run]
    render: Callable[[Mapping[str, Path]], str]


class Failed(Exception):
    """A command ended with an error."""


def typed(run: Run, folders: Mapping[str, Path], output: Path | str, fewer: int | None) -> str:
    """The command as it is typed."""
    scenes = min(run.scenes, fewer or run.scenes)
    return run.words.format(output=output, scenes=scenes, **{name: str(folder) for name, folder in folders.items()})


def shown_as(run: Run, folders: Iterable[str], fewer: int | None) -> str:
    """The command as a page shows it, whatever the folders are."""
    return typed(run, {name: Path(name.upper()) for name in folders}, "OUTPUT", fewer)


def folder_of(run: Run, folders: Iterable[str], work: Path, fewer: int | None) -> Path:
    """Where a run is kept: by its command and the embedded model."""
    return work / hashlib.sha256(shown_as(run, folders, fewer).encode() + MODEL.read_bytes()).hexdigest()[:12]


def forget(table: Table, work: Path, fewer: int | None) -> None:
    """Remove what the runs of a table have left."""
    before: list[str] = []
    for name, run in table.runs.items():
        shutil.rmtree(folder_of(run, before, work, fewer), ignore_errors=True)
        before.append(name)


def done(run: Run, folders: Mapping[str, Path], work: Path, fewer: int | None) -> Path:
    """The folder of a run, after it was made if it was not there.

    Raises:
        Failed: The command did; its last lines are said.
    """
    shown, folder = shown_as(run, folders, fewer), folder_of(run, folders, work, fewer)
    end = folder / "done.json"
    if end.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    command = typed(run, folders, folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder, fewer)
    print(f"  {command}", flush=True)
    words = shlex.split(command)
    start = [sys.executable, "-m", "m2ib_lightning"] if words[0] == "m2ib" else [sys.executable]
    began = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        status = subprocess.run([*start, *words[1:]], cwd=ROOT, stdout=log, stderr=log, check=False).returncode
    if status:
        raise Failed(f"{command}: exit status {status}\n{(folder / 'log.txt').read_text()[-1500:]}")
    end.write_text(json.dumps({"command": shown, "seconds": time.monotonic() - began}, indent=1))
    return folder


def made(table: Table, work: Path, fewer: int | None) -> str:
    """A table's Markdown, with the commands that it is from and the minutes that they took."""
    folders: dict[str, Path] = {}
    for name, run in table.runs.items():
        folders[name] = done(run, folders, work, fewer)
    text = table.render({name: folder / table.runs[name].file for name, folder in folders.items()})
    ends = [json.loads((folder / "done.json").read_text()) for folder in folders.values()]
    commands = [f"`{end['command']}`" for end in ends]
    if len(commands) > 2:
        commands = [commands[0], f"{len(commands) - 1} more, which `python scripts/measure.py --list` says"]
    minutes = round(sum(end["seconds"] for end in ends) / 60)
    took = f"{minutes} minutes" if minutes > 1 else "a minute"
    return f"{text.strip()}\n\nMeasured in {took} by {' and '.join(commands)}."


def write(page: Path, name: str, text: str) -> None:
    """Put a text between a page's two markers.

    Raises:
        Failed: The page has no such markers.
    """
    old = page.read_text("utf-8")
    new, found = re.subn(
        rf"(<!-- measure:{re.escape(name)} -->\n).*?(<!-- /measure -->)",
        lambda match: f"{match[1]}{text}\n{match[2]}",
        old,
        flags=re.DOTALL,
    )
    if found != 1:
        raise Failed(f"Expected the markers of {name!r} once in {page} but got {found}.")
    page.write_text(new, "utf-8")


def main() -> None:
    """Measure what is asked for; what fails is said at the end, and stops nothing else."""
    from measured import TABLES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say which tables there are, and their commands")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[table.name for table in TABLES])
    parser.add_argument("--scenes", type=int, help="at most so many of each run")
    parser.add_argument("--print", action="store_true", help="print the tables and leave the pages alone")
    parser.add_argument("--again", action="store_true", help="forget what was measured before of these tables")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "measure", help="where results are kept")
    options = parser.parse_args()
    chosen = [table for table in TABLES if not options.only or table.name in options.only]
    if options.list:
        for table in chosen:
            print(f"{table.name}, in {table.page}")
            for run in table.runs.values():
                print(f"  {typed(run, dict.fromkeys(table.runs, Path('OUTPUT')), 'OUTPUT', options.scenes)}")
        return
    for table in chosen if options.again else ():
        forget(table, options.work.resolve(), options.scenes)
    failed = []
    for table in chosen:
        print(table.name, flush=True)
        try:
            text = made(table, options.work.resolve(), options.scenes)
            if options.print:
                print(text)
            else:
                write(ROOT / table.page, table.name, text)
        except Failed as error:
            failed.append(f"{table.name}: {error}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
