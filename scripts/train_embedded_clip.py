#!/usr/bin/env python
"""Train the CLIP that the package carries, on composed scenes, by contrast of pictures and captions alone.

    python scripts/train_embedded_clip.py --folder outputs/embedded_clip
    python scripts/train_embedded_clip.py --device cuda --depth 6 8 12 12 --width 128 128 320 320 \\
        --loss contrast contrast contrast sigmoid --minutes 7 --folder outputs/models
    python scripts/train_embedded_clip.py --evaluate

Several models train at once on the same scenes, each in a process of its own, since drawing is what takes the time;
`--depth`, `--width` and `--loss` then have a value for each, or one for all. Each is written into a folder inside
`--folder` that is named by it, like `clip-6x128`, as transformers reads it. Started again with the same folder it goes
on from the last checkpoint there. `--evaluate` measures the model in `--to`, by default the package's, and trains none.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from embedded.measure import evaluate
from embedded.model import Embedder, Recipe, export, load, make_model, make_optimizers, to_tokens, train_tokenizer
from embedded.stream import Ring
from torch import Tensor
from transformers import CLIPTokenizer
from transformers.utils import logging

PACKAGED = Path(__file__).parent.parent / "m2ib_lightning" / "assets" / "embedded_clip"
WARM_UP = 200
"""Steps."""


class Plan(NamedTuple):
    """How long and where models are trained.

    Attributes:
        folder: One folder in it for each model.
        device: "cpu" or "cuda".
        steps: The end, unless `seconds` are over before.
        seconds: Of training, those before an interruption included.
        batch: Scenes in a batch.
        every: Seconds between checkpoints.
    """

    folder: Path
    device: str
    steps: int
    seconds: float
    batch: int
    every: float

    def share(self, step: int, seconds: float) -> float:
        """How much of the training is over, 0..1 and above."""
        return max(step / self.steps, seconds / self.seconds)


def rate(step: int, share: float) -> float:
    """Factor of the step sizes: warm up, hold, fall linearly to nothing over the second half."""
    return min(1.0, (step + 1) / WARM_UP, max(0.0, 2 * (1 - share)))


class Training:
    """One model under training.

    Attributes:
        step: Batches read.
        seconds: Spent.
    """

    def __init__(self, recipe: Recipe, plan: Plan, tokenizer: CLIPTokenizer) -> None:
        torch.manual_seed(0)
        self.recipe, self.plan, self.folder = recipe, plan, plan.folder / recipe.name
        self.embedder = Embedder(make_model(recipe, tokenizer), tokenizer).to(plan.device)
        self.optimizers = make_optimizers(self.embedder, recipe.width)
        self.bases = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.step, self.seconds = 0, 0.0
        if (self.folder / "last.pt").exists():
            state = torch.load(self.folder / "last.pt", weights_only=True)
            self.embedder.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]

    def learn(self, batch: tuple[Tensor, ...]) -> Tensor:
        """One step; the loss."""
        factor = rate(self.step, self.plan.share(self.step, self.seconds))
        loss = self.embedder(*batch)
        loss.backward()
        for optimizer, base in zip(self.optimizers, self.bases, strict=True):
            optimizer.param_groups[0]["lr"] = base * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.detach()

    def run(self, ring: Ring, reader: int) -> None:
        """Train to the end, with a checkpoint now and then, and write the model."""
        began, saved, losses = time.monotonic() - self.seconds, time.monotonic(), []
        while self.plan.share(self.step, self.seconds) < 1:
            batch = [torch.from_numpy(array).to(self.plan.device) for array in ring.read(self.step)]
            losses.append(self.learn((batch[0], batch[1].long(), *batch[2:])))
            ring.release(reader, self.step)
            self.seconds = time.monotonic() - began
            if self.step % 50 == 0:
                self.say(f"loss {torch.stack(losses).mean().item():.3f}")
                losses = []
            if time.monotonic() - saved > self.plan.every:
                self.save()
                saved = time.monotonic()
        ring.release(reader, 2**62)  # the others need not wait for this one
        self.save()
        self.embedder.eval()
        for name, value in evaluate(self.embedder, 500).items():
            self.say(f"{name}: {100 * value:.1f} %")

    def say(self, what: str) -> None:
        scenes = self.step * self.plan.batch
        print(f"{self.recipe.name}  {self.seconds:.0f} s  {scenes} scenes  {what}", flush=True)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all, and the model as it is now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = dict(
            model=self.embedder.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            step=self.step,
            seconds=self.seconds,
        )
        torch.save(state, self.folder / "last.new")
        (self.folder / "last.new").rename(self.folder / "last.pt")
        export(self.embedder, self.folder)


def steps_done(plan: Plan, recipe: Recipe) -> int:
    """Of the checkpoint in the folder, if there is one."""
    path = plan.folder / recipe.name / "last.pt"
    return torch.load(path, weights_only=True, mmap=True)["step"] if path.exists() else 0


def train(recipes: list[Recipe], plan: Plan, drawers: int, slots: int) -> None:
    """Train all at once, in processes forked before anything is computed."""
    tokenizer, fork = train_tokenizer(), multiprocessing.get_context("fork")
    starts = [steps_done(plan, recipe) for recipe in recipes]
    ring, first = Ring(slots, plan.batch, starts), min(starts)

    def start(work: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
        process = fork.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    def keep_drawing(which: int) -> None:
        os.nice(5)
        number = first + which
        while True:
            ring.fill(number, partial(to_tokens, tokenizer))
            number += drawers

    def keep_learning(reader: int) -> None:
        torch.set_num_threads(max(1, ((os.cpu_count() or 1) - drawers) // len(recipes)))
        try:
            Training(recipes[reader], plan, tokenizer).run(ring, reader)
        finally:
            ring.release(reader, 2**62)

    drawing = [start(keep_drawing, which) for which in range(drawers)]
    learning = [start(keep_learning, reader) for reader in range(len(recipes))]
    for process in learning:
        process.join()
    for process in drawing:
        process.terminate()
    if any(process.exitcode for process in learning):
        raise SystemExit("Expected every model to be trained but a process ended early. Remedy: see its error above.")


def recipes_of(arguments: argparse.Namespace) -> list[Recipe]:
    """One for each value of the longest list; lists of one hold for all."""
    columns = [arguments.depth, arguments.width, arguments.loss]
    count = max(map(len, columns))
    if any(len(column) not in (1, count) for column in columns):
        raise SystemExit(
            f"Expected --depth, --width and --loss with {count} values or one "
            f"but got {', '.join(str(len(column)) for column in columns)}. Remedy: give each model its value."
        )
    rows = zip(*(column * (count // len(column)) for column in columns), strict=True)
    return [Recipe(*row, arguments.text_depth) for row in rows]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, nargs="+", default=[8], help="blocks of the image tower")
    parser.add_argument("--width", type=int, nargs="+", default=[128], help="of both towers, a multiple of 32")
    parser.add_argument("--loss", nargs="+", default=["contrast"], choices=("contrast", "sigmoid"))
    parser.add_argument("--text-depth", type=int, default=4, help="blocks of the text tower")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--scenes", type=int, default=1_200_000, help="scenes to train on")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end then if that comes first")
    parser.add_argument("--batch", type=int, default=512, help="scenes in a batch")
    parser.add_argument("--drawers", type=int, default=1, help="processes that draw")
    parser.add_argument("--slots", type=int, default=16, help="batches of 14 MB kept in memory")
    parser.add_argument("--every", type=float, default=60, help="seconds between checkpoints")
    parser.add_argument("--folder", type=Path, default=Path("outputs/embedded_clip"), help="where models are written")
    parser.add_argument("--evaluate", action="store_true", help="measure the model in --to and stop")
    parser.add_argument("--to", type=Path, default=PACKAGED, help="what --evaluate measures")
    return parser.parse_args(words)


def main() -> None:
    arguments = parse()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are forked
    logging.disable_progress_bar()
    if arguments.evaluate:
        for name, value in evaluate(load(arguments.to)).items():
            print(f"{name}: {100 * value:.1f} %")
        return
    plan = Plan(
        folder=arguments.folder,
        device=arguments.device,
        steps=arguments.scenes // arguments.batch,
        seconds=60 * arguments.minutes,
        batch=arguments.batch,
        every=arguments.every,
    )
    train(recipes_of(arguments), plan, arguments.drawers, arguments.slots)


if __name__ == "__main__":
    main()
