#!/usr/bin/env python
"""Kill `m2ib predict` again and again, resume it each time, and compare the end with an undisturbed run.

    python scripts/kill_and_resume.py                                    # 2,000 scenes, 20 kills; some minutes
    python scripts/kill_and_resume.py --devices 2 --kills 5
    python scripts/kill_and_resume.py --scenes 40 --kills 3 --last 2     # quick

Each time one process of the run, chosen at random, gets `kill -9`: one time in four at a random moment of its start,
else at a random moment of the `--last` seconds after it has written its first part. At the end every id must be there
exactly once, and every map must be that of the undisturbed run. Further arguments go to `m2ib predict`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from m2ib_lightning import AttributionStore


def command(folder: Path, scenes: int, devices: int, further: list[str]) -> list[str]:
    """What is killed and resumed."""
    program = [sys.executable, "-m", "m2ib_lightning", "predict", f"--data.scenes={scenes}", "--data.batch_size=16"]
    program += ["--model.noise_samples=2", "--model.steps=3", "--part_seconds=1", "--trainer.enable_progress_bar=false"]
    return [*program, f"--trainer.devices={devices}", f"--output={folder}", *further]


def children(pid: int) -> list[int]:
    """The processes that a process has started (Linux)."""
    files = Path("/proc").glob(f"{pid}/task/*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def parts(folder: Path) -> int:
    """How many are written."""
    return len(AttributionStore(folder / "attributions").parts)


def kill_at_random(program: list[str], folder: Path, chance: random.Random, last: float) -> int | None:
    """Start a run and kill a process of it; its exit status if it ended before."""
    with folder.with_suffix(".log").open("ab") as output:
        run = subprocess.Popen(program, stdout=output, stderr=output)
    if chance.random() < 0.25:
        wait = chance.uniform(0, 8)
    else:
        wait, before = chance.uniform(0, last), parts(folder)
        while parts(folder) == before and run.poll() is None:
            time.sleep(0.01)
    moment = time.monotonic() + wait
    while time.monotonic() < moment and run.poll() is None:
        time.sleep(0.01)
    if run.poll() is None:
        victim = chance.choice([run.pid, *children(run.pid)])
        subprocess.run(["kill", "-9", str(victim)], check=False)
        # Lightning takes the others down when one is missing; one whose launcher is missing stops by itself.
        run.wait()
        return None
    return run.returncode


def compare(undisturbed: Path, killed: Path, scenes: int) -> tuple[bool, float]:
    """Whether every map is bit-equal, and the largest difference over the largest value of a map.

    Raises:
        SystemExit: An id is missing, doubled or foreign.
    """
    wanted = {a.id: a for a in AttributionStore(undisturbed / "attributions")}
    counts = Counter(AttributionStore(killed / "attributions").to_pandas().id)
    if len(wanted) != scenes or counts != Counter(wanted.keys()):
        sys.exit(f"FAILED: {len(counts)} ids of {scenes}, {sum(counts.values())} rows")
    equal, largest = True, 0.0
    for a in AttributionStore(killed / "attributions"):
        for name in ("image_map", "text_map"):
            one, other = getattr(a, name), getattr(wanted[a.id], name)
            equal &= bool(np.array_equal(one, other))
            largest = max(largest, float(np.abs(one - other).max() / np.abs(other).max()))
    return equal, largest


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1, help="processes of the run that is killed")
    parser.add_argument("--last", type=float, default=5.0, help="seconds, see above")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("outputs/kill_and_resume"))
    parser.add_argument("--keep", action="store_true", help="go on from an undisturbed run that is there")
    args, further = parser.parse_known_args()
    undisturbed, killed = args.folder / "undisturbed", args.folder / "killed"
    for folder in (killed,) if args.keep else (undisturbed, killed):
        shutil.rmtree(folder, ignore_errors=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (args.folder / "undisturbed.log").open("wb") as output:
        subprocess.run(command(undisturbed, args.scenes, 1, further), check=True, stdout=output, stderr=output)
    print(f"undisturbed: {time.monotonic() - started:.1f} s", flush=True)

    chance, program, done = random.Random(args.seed), command(killed, args.scenes, args.devices, further), 0
    while done < args.kills:
        status = kill_at_random(program, killed, chance, args.last)
        if status is None:
            done += 1
            print(f"kill {done}: {len(AttributionStore(killed / 'attributions'))} pairs written", flush=True)
        elif status == 0:
            print("finished before all kills: raise --scenes or lower --last", flush=True)
            break
        else:
            sys.exit(f"FAILED: exit status {status}, see {args.folder / 'killed.log'}")
    with (args.folder / "killed.log").open("ab") as output:
        subprocess.run(program, check=True, stdout=output, stderr=output)
    equal, largest = compare(undisturbed, killed, args.scenes)
    print(f"{done} kills, {args.devices} processes: every one of {args.scenes} ids once; ", end="")
    print("maps bit-equal" if equal else f"largest difference of a map {largest:.1e} of its largest value")
    if largest > 1e-4:
        sys.exit("FAILED: that is more than rounding")


if __name__ == "__main__":
    main()
