#!/usr/bin/env python
"""Kill a run again and again, resume it each time, and compare the end with an undisturbed run.

    python scripts/kill_and_resume.py                                    # 2,000 scenes, 20 kills; some minutes
    python scripts/kill_and_resume.py --devices 2 --kills 5
    python scripts/kill_and_resume.py --scenes 40 --kills 3 --last 2     # quick
    python scripts/kill_and_resume.py --verb fit --scenes 24             # goes on from its checkpoint
    python scripts/kill_and_resume.py --verb compare --scenes 120

Each time one process of the run, chosen at random, gets `kill -9`: one time in four at a random moment of its start,
one time in four as soon as a file is being written, else at a random moment of the `--last` seconds after a part or a
checkpoint was written. At the end every id must be there exactly once, every map must be that of the undisturbed run,
every score of `compare` as well, and no half of a file may be left. Further arguments go to the command.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main as main_of_m2ib
from m2ib_lightning.files import UNFINISHED

QUICK = ["--model.noise_samples=2", "--trainer.enable_progress_bar=false"]
VERBS = {
    "predict": [*QUICK, "--model.steps=3", "--part_seconds=1"],
    "fit": [*QUICK, "--model.steps=60", "--model.tolerance=null", "--model.patience=60", "--pictures=false"],
    "compare": ["--methods=[M2IB,GradCAM]", "--metrics=[ConfidenceDrop,RelevanceMassAccuracy]"],
}
"""What each verb is given beside pairs and folder."""

WRITTEN = {
    "predict": "attributions/part-*.parquet",
    "fit": "checkpoints/last.ckpt",
    "compare": "*/attributions/part-*.parquet",
}
"""What a run that goes on begins from."""


def command(verb: str, folder: Path, scenes: int, devices: int, further: list[str]) -> list[str]:
    """What is killed and resumed."""
    arguments = [verb, f"--data.scenes={scenes}", f"--output={folder}", "--data.batch_size=16", *VERBS[verb], *further]
    last = folder / WRITTEN["fit"]
    arguments += [f"--trainer.devices={devices}"] if devices > 1 else []
    return arguments + ([f"--ckpt_path={last}"] if verb == "fit" and last.is_file() else [])


def start(arguments: list[str], log: Path) -> BaseProcess:
    """A process that runs it; a fork, which begins with what is imported already."""

    def run() -> None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1), os.dup2(output, 2)
        if any(argument.startswith("--trainer.devices") for argument in arguments):  # it starts others like itself
            os.execv(sys.executable, [sys.executable, "-m", "m2ib_lightning", *arguments])
        main_of_m2ib(arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def children(pid: int) -> list[int]:
    """The processes that a process has started (Linux)."""
    files = Path("/proc").glob(f"{pid}/task/*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def written(folder: Path, verb: str) -> set[tuple[str, int]]:
    """The files that a run goes on from, each with its time."""
    return {(str(path), path.stat().st_mtime_ns) for path in folder.glob(WRITTEN[verb])}


def unfinished(folder: Path) -> list[Path]:
    """The files that are being written, or were."""
    return list(folder.rglob(f".*{UNFINISHED}"))


def kill_at_random(program: list[str], folder: Path, verb: str, chance: random.Random, last: float) -> str | int:
    """Start a run and kill a process of it: at which moment, or the exit status if it ended before."""
    run = start(program, folder.with_suffix(".log"))

    def until(reached: Callable[[], object], every: float = 0.01) -> None:
        while run.is_alive() and not reached():
            time.sleep(every)

    moment, wait = chance.choice(("at its start", "in a write", "after a write", "after a write")), 0.0
    if moment == "in a write":
        before = set(unfinished(folder))
        until(lambda: set(unfinished(folder)) - before, 0.0005)
    elif moment == "after a write":
        wait, there = chance.uniform(0, last), written(folder, verb)
        until(lambda: written(folder, verb) != there)
    else:
        wait = chance.uniform(0, 8)
    end = time.monotonic() + wait
    until(lambda: time.monotonic() >= end)
    assert run.pid is not None
    if run.is_alive():
        victim = chance.choice([run.pid, *children(run.pid)])
        subprocess.run(["kill", "-9", str(victim)], check=False)
        # Lightning takes the others down when one is missing; one whose launcher is missing stops by itself.
    killed = run.is_alive() or run.exitcode == -signal.SIGKILL
    run.join()
    return moment if killed else run.exitcode or 0


def whole(program: list[str], log: Path) -> None:
    """Run it to its end.

    Raises:
        SystemExit: It did not end well.
    """
    run = start(program, log)
    run.join()
    if run.exitcode:
        sys.exit(f"FAILED: exit status {run.exitcode}, see {log}")


def compare(undisturbed: Path, killed: Path, scenes: int) -> tuple[bool, float]:
    """Whether every map and score is bit-equal, and the largest difference over the largest value of a map.

    Raises:
        SystemExit: An id is missing, doubled or foreign, a score is another one, or half of a file is left.
    """
    equal, largest = True, 0.0
    for place in sorted(undisturbed.rglob("attributions")):
        wanted = {a.id: a for a in AttributionStore(place)}
        store = AttributionStore(killed / place.relative_to(undisturbed))
        counts = Counter(store.to_pandas().id)
        if len(wanted) != scenes or counts != Counter(wanted.keys()) or store.doubled():
            sys.exit(f"FAILED: {store.folder} has {len(counts)} ids of {scenes}, {sum(counts.values())} rows")
        for a in store:
            for one, other in ((a.image_map, wanted[a.id].image_map), (a.text_map, wanted[a.id].text_map)):
                if one is not None and other is not None:
                    equal &= bool(np.array_equal(one, other))
                    largest = max(largest, float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-12)))
    for place in sorted(undisturbed.rglob("*.parquet")):
        if place.parent.name != "attributions" and place.parent.name != "scores":
            one, other = (pd.read_parquet(root / place.relative_to(undisturbed)) for root in (killed, undisturbed))
            equal &= bool(one.drop(columns="seconds").equals(other.drop(columns="seconds")))
    if left := unfinished(killed):
        sys.exit(f"FAILED: {len(left)} halves of files are left, {left[0]} the first")
    return equal, largest


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verb", choices=VERBS, default="predict", help="what is killed")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1, help="processes of the run that is killed")
    parser.add_argument("--last", type=float, default=5.0, help="seconds, see above")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--rounding", type=float, default=1e-4, help="of the largest value that maps may differ by")
    parser.add_argument("--folder", type=Path, default=Path("outputs/kill_and_resume"))
    parser.add_argument("--keep", action="store_true", help="go on from an undisturbed run that is there")
    args, further = parser.parse_known_args()
    undisturbed, killed = args.folder / "undisturbed", args.folder / "killed"
    for folder in (killed,) if args.keep else (undisturbed, killed):
        shutil.rmtree(folder, ignore_errors=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if not args.keep:
        whole(command(args.verb, undisturbed, args.scenes, 1, further), args.folder / "undisturbed.log")
        print(f"undisturbed: {time.monotonic() - started:.1f} s", flush=True)

    chance, moments = random.Random(args.seed), Counter[str]()
    while moments.total() < args.kills:
        program = command(args.verb, killed, args.scenes, args.devices, further)
        done = args.verb == "fit" and any(killed.glob(WRITTEN["predict"]))  # when it was killed; it is refused now
        found = 0 if done else kill_at_random(program, killed, args.verb, chance, args.last)
        if isinstance(found, str):
            moments[found] += 1
            there = len(written(killed, args.verb))
            print(f"kill {moments.total()}, {found}: {there} files to go on from", flush=True)
        elif found == 0:
            print("finished before all kills: raise --scenes (of a fit --model.steps) or lower --last", flush=True)
            break
        else:
            sys.exit(f"FAILED: exit status {found}, see {args.folder / 'killed.log'}")
    else:
        whole(command(args.verb, killed, args.scenes, args.devices, further), args.folder / "killed.log")
    equal, largest = compare(undisturbed, killed, args.scenes)
    kills = f"{moments.total()} kills of {args.verb} ({', '.join(f'{n} {moment}' for moment, n in moments.items())})"
    print(f"{kills}, {args.devices} processes: every one of {args.scenes} ids once; ", end="")
    print("maps bit-equal" if equal else f"largest difference of a map {largest:.1e} of its largest value")
    if largest > args.rounding:
        sys.exit("FAILED: that is more than rounding")


if __name__ == "__main__":
    main()
