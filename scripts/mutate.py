#!/usr/bin/env python
"""Put small errors into a copy of the code, one at a time, and see whether the nearest tests notice.

    python scripts/mutate.py                          # all of scripts/mutations.txt; goes on where it stopped
    python scripts/mutate.py --only "store/|prior"    # those of some files
    python scripts/mutate.py --check                  # only whether every error still fits the code

A line of the list is `FILE ;; OLD ;; NEW ;; TESTS`: OLD stands in FILE exactly once and is replaced by NEW; TESTS are
arguments of pytest. An error that changes nothing that anybody could see ends with `;; same` and does not count. What
was found is kept in `outputs/mutations.txt`; an error is tried again when its line, its file or its tests have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("mutations.txt")
PATIENCE = 600.0
"""Seconds that the tests of an error may take; an error that makes them hang is noticed."""


class Mutation(NamedTuple):
    """An error, and who should notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    same: bool

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.file}: {self.old} -> {self.new}"

    def fits(self, root: Path) -> bool:
        """Whether the code has the place, once."""
        file = root / self.file
        return file.is_file() and file.read_text("utf-8").count(unescaped(self.old)) == 1

    def key(self, root: Path) -> str:
        """Changes when the line, the file or its tests do."""
        tests = [root / test.partition("::")[0] for test in self.tests if test.startswith("tests")]
        read = [
            self.name,
            " ".join(self.tests),
            *(f.read_text("utf-8") for f in (root / self.file, *tests) if f.is_file()),
        ]
        return hashlib.sha256("\0".join(read).encode()).hexdigest()[:16]


def unescaped(text: str) -> str:
    r"""Line ends are written \n."""
    return text.replace("\\n", "\n")


def read_list(path: Path) -> list[Mutation]:
    """The errors, in order.

    Raises:
        SystemExit: A line is malformed.
    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split(" ;; ")
        if len(cells) not in (4, 5) or (len(cells) == 5 and cells[4].strip() != "same"):
            sys.exit(f"Expected FILE ;; OLD ;; NEW ;; TESTS in line {number} of {path} but got {line!r}.")
        found.append(Mutation(cells[0], cells[1], cells[2], tuple(shlex.split(cells[3])), len(cells) == 5))
    return found


def copy_tree(scratch: Path) -> None:
    """The files of the working tree that git knows or would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, scratch / name)


def warm_up() -> None:
    """Import what is slow and no part of this package, so that each trial begins with it."""
    for name in ("torch", "lightning.pytorch", "lightning.pytorch.cli", "transformers", "pandas", "pyarrow.parquet",
                 "matplotlib.figure", "pytest", "hypothesis", "rich.console", "captum.attr"):  # fmt: skip
        __import__(name)
    import torch

    torch.set_num_threads(1)


def run_tests(scratch: Path, tests: tuple[str, ...], log: Path) -> int:
    """The exit status of pytest in a process of its own, 124 if it was stopped."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(scratch)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1), os.dup2(output, 2)
        sys.path[:] = [str(scratch), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "scripts"))]
        os.environ["PYTHONPATH"], sys.dont_write_bytecode = str(scratch), True
        import pytest

        status = 3
        try:
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(status)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


def try_one(mutation: Mutation, scratch: Path, log: Path) -> int:
    """The exit status of the tests with the error in the code."""
    file = scratch / mutation.file
    whole = file.read_text("utf-8")
    file.write_text(whole.replace(unescaped(mutation.old), unescaped(mutation.new)), "utf-8")
    try:
        return run_tests(scratch, mutation.tests, log)
    finally:
        file.write_text(whole, "utf-8")


def main() -> None:
    """Try them and print those that nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression that the error must match")
    parser.add_argument("--list", type=Path, default=LIST, help="another list")
    parser.add_argument("--check", action="store_true", help="try nothing")
    parser.add_argument("--kept", type=Path, default=ROOT / "outputs" / "mutations.txt", help="what was found before")
    args = parser.parse_args()
    chosen = [m for m in read_list(args.list) if re.search(args.only, m.name)]
    astray = [m.name for m in chosen if not m.fits(ROOT)]
    print(f"{len(chosen)} errors, {len(astray)} without their place in the code", *astray, sep="\n  ", flush=True)
    if args.check:
        sys.exit(bool(astray))
    args.kept.parent.mkdir(parents=True, exist_ok=True)
    known = dict(line.split(" ", 1) for line in args.kept.read_text().splitlines()) if args.kept.is_file() else {}
    warm_up()
    statuses: dict[Mutation, int] = {}
    with tempfile.TemporaryDirectory(prefix="m2ib-mutations-") as folder:
        scratch = Path(folder) / "m2ib"
        copy_tree(scratch)
        for index, mutation in enumerate((m for m in chosen if m.fits(ROOT)), 1):
            key, started = mutation.key(ROOT), time.monotonic()
            if key not in known:
                status = try_one(mutation, scratch, Path(folder) / "log")
                known[key] = f"{status} {mutation.name}"
                with args.kept.open("a") as file:
                    file.write(f"{key} {known[key]}\n")
            statuses[mutation] = int(known[key].split(" ", 1)[0])
            said = "SURVIVED" if statuses[mutation] == 0 else "noticed"
            print(f"{index:4} {said:8} {time.monotonic() - started:6.1f} s  {mutation.name}", flush=True)
    counted = {m: status for m, status in statuses.items() if not m.same}
    survivors = [m.name for m, status in counted.items() if status == 0]
    share = 100 * (1 - len(survivors) / max(1, len(counted)))
    print(
        f"{len(counted) - len(survivors)} of {len(counted)} errors noticed, {share:.1f} %; not noticed:",
        *survivors,
        sep="\n  ",
    )
    sys.exit(bool(astray) or share < 95)


if __name__ == "__main__":
    main()
