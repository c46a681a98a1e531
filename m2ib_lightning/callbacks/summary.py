"""What the terminal shows when a run has ended."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.files import replacing
from m2ib_lightning.printable import printable
from m2ib_lightning.report.figure import pair_figure
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.types import Pair

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


def print_written(folder: Path, results: str, pictures: bool) -> None:
    """Where everything is."""
    from rich.console import Console

    console = Console()
    console.print("Written:", style="bold")
    what = [results, f"{folder / 'config.yaml'}  the full configuration"]
    if pictures:
        what.insert(1, f"{folder / 'pictures'}/  {len(list((folder / 'pictures').glob('*.png')))} pictures")
    for line in what:
        console.print("  " + line, soft_wrap=True, highlight=False)


def draw(folder: Path, attributions: Sequence[Attribution], pairs: Sequence[Pair]) -> None:
    """A picture of each pair, named by its id."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {pair.id: pair.image for pair in pairs}
    for attribution in attributions:
        with replacing(folder / f"{attribution.id}.png") as unfinished:
            pair_figure(attribution, images[attribution.id]).save(unfinished, "PNG")
