"""What the terminal shows when a run has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from m2ib_lightning.attribution import Attribution, MapStyle
from m2ib_lightning.files import replacing
from m2ib_lightning.printable import printable
from m2ib_lightning.report.figure import save_pair_figure
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.types import Pair
from m2ib_lightning.verdict import SENTENCES, VERDICTS

ROWS = 40
"""The most pairs that the table shows."""

NAMED = 20
"""The most bad pairs that are named."""


def print_table(shown: Sequence[Attribution], count: int) -> None:
    """The first results of a run, and how many more there are."""
    from rich.console import Console

    from m2ib_lightning.report.table import results_table

    if not shown:
        return
    console = Console()
    console.print(results_table(shown))
    if count > len(shown):
        console.print(f"and {count - len(shown)} more pairs")


def print_totals(store: AttributionStore, nothing_done: bool) -> None:
    """How many pairs of a data set are done and why their fits ended, and the bad ones by name."""
    reasons = store.stop_reasons()
    counts = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.most_common() if reason)
    if nothing_done:
        print("Nothing to do: every pair is there.")
    print(f"Done: {reasons.total():,} pairs" + (f" ({counts})" if counts else ""))
    print_verdicts(store.verdicts())
    for part, doubled in store.doubled().items():
        print(f"Doubled: {doubled:,} pairs of {part} are in a part before it, and count once. Remedy: remove that file")
    errors = list(islice(store.errors(), NAMED))
    if not errors:
        return
    bad = len(store.ids()) - reasons.total()
    print(f"Bad: {bad:,} pairs, without a map")
    for pair in errors:
        print(printable(f"  {pair.id}: {pair.error}"))
    if bad > len(errors):
        print(f"  and {bad - len(errors):,} more: `AttributionStore({str(store.folder)!r}).errors()`")
    print("Remedy: correct them and run the same command with --retry_errors true")


def print_verdicts(counts: Counter[str]) -> None:
    """How many pairs got which verdict, and what each one other than "ok" means: "4 pairs: 3 ok, 1 no match"."""
    known = [verdict for verdict in VERDICTS if counts[verdict]]
    if not known:
        return
    said = ", ".join(f"{counts[verdict]:,} {verdict.replace('_', ' ')}" for verdict in known)
    print(f"{counts.total():,} pair{'s' * (counts.total() != 1)}: {said}")
    for verdict in known:
        if verdict != "ok":
            print(f"  {verdict.replace('_', ' ')}: {SENTENCES[verdict]}")


def print_changed(changed: Mapping[str, str], again: bool) -> None:
    """Which pairs have another caption or image than when they were explained, and what comes of that."""
    named = ", ".join(f"{id} ({what})" for id, what in islice(changed.items(), NAMED))
    more = f", and {len(changed) - NAMED:,} more" if len(changed) > NAMED else ""
    then = "they are explained again" if again else "their results are the old ones"
    print(printable(f"Changed since they were explained: {len(changed):,} pairs, {named}{more}; {then}."))
    if not again:
        print("Remedy: the same command with --retry_changed true")


def print_written(folder: Path) -> None:
    """Where everything is that a run has left in its folder.

    Args:
        folder: The folder of the run, as given by --output.
    """
    from rich.console import Console

    console = Console()
    console.print("Written:", style="bold")
    for name, what in _contents(folder).items():
        console.print(printable(f"  {folder / name}  {what}".rstrip()), soft_wrap=True, highlight=False, markup=False)


def _contents(folder: Path) -> dict[str, str]:
    """Every entry of a run's folder, what people look at first, with what it holds."""
    found = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    masks = folder / "masks"
    animations = len(list(masks.glob("*.gif")))
    known = {
        "gallery.html": "every pair, to look through in a browser",
        "pictures/": f"{len(list((folder / 'pictures').glob('*.*')))} pictures",
        "masks/": f"{len([e for e in masks.glob('*') if e.is_dir()])} pairs step by step"
        + f", {animations} animations" * bool(animations),
        "attributions/": f"{len(AttributionStore(folder / 'attributions')):,} attributions, Parquet",
        "comparison.html": "the methods side by side, to look at in a browser",
        "pairs.parquet": "what each pair was scored with, by each method",
        "scores.parquet": "what each pair was scored with",
        "scores/": "the same batch by batch, to go on from",
        "wandb/": "a run of W&B; `wandb sync` sends it where it was offline",
        "lightning_logs/": "a logger's curves",
        "checkpoints/": "what the same command goes on from",
        "reader.safetensors": "the network that reads masks",
        "fits/": "what it learnt from; not needed any more",
        "config.yaml": "the full configuration",
    }
    return {name: what for name, what in known.items() if name in found} | {n: "" for n in found if n not in known}


class Drawing(NamedTuple):
    """How pictures of pairs are drawn.

    Attributes:
        style: "smooth" between the patches, or "patch", each with its own value.
        format: The kind of file; "pdf" and "svg" keep text and lines as vectors.
    """

    style: MapStyle = "smooth"
    format: Literal["png", "pdf", "svg"] = "png"


def draw(folder: Path, attributions: Sequence[Attribution], pairs: Sequence[Pair], drawing: Drawing | bool) -> None:
    """Draw a picture of each pair, in a file named by its id.

    Args:
        folder: The folder that the files go to; it is made if it is not there.
        attributions: The results that are drawn, one picture each.
        pairs: The pairs with their pictures.
        drawing: How; `True` for the defaults of `Drawing`.
    """
    how = drawing if isinstance(drawing, Drawing) else Drawing()
    folder.mkdir(parents=True, exist_ok=True)
    images = {pair.id: pair.image for pair in pairs}
    for a in attributions:
        with replacing(folder / f"{a.id}.{how.format}") as unfinished:
            save_pair_figure(a, images[a.id], unfinished, how.style, how.format)
