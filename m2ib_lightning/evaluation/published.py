"""Published tables as small files: what was measured on what, what was printed, and what cannot follow from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

TABLES = Path(__file__).parent / "tables"
"""The folder of the files, one a table."""


@dataclass
class PublishedTable:
    """One table of a paper; a YAML file in `tables/` has these fields.

    Attributes:
        title: What is measured on what.
        paper: The paper: its authors, its title and where it is to be found.
        source: Where the published values were read; that none are known, where `published` is empty.
        model: Its hub name; None where it is on no hub.
        model_note: How large the model is and its licence, or how to get it.
        data: Hub name of the pairs; None where they are on no hub.
        data_note: How large the data is, and its licence.
        get: How a folder for `--data` is made.
        read: Arguments of `PairDataModule` that read the pairs; `{at}` stands for the hub name or the folder.
        pairs: How many there are in the published table, or are usual.
        protocols: How inputs are masked, see `Protocol`; the first is the one that published values are held against.
        metrics: What is measured, as `m2ib compare` takes it.
        methods: What is compared, by label, as `m2ib compare` takes it.
        published: The values of each method's label, by the metric's name.
        why: What a reader must know before comparing, a sentence each: also why a value cannot follow.
        teraflop: What a pair costs, all methods and protocols: it takes as long as products of matrices of so many
            10^12 operations. From a few pairs with 4 noise samples on one core of a CPU and random weights in the
            shape of ViT-B/32, other shapes by their number of patches: an upper bound of the hour, no promise.
        slow: Methods that are left out unless asked for, and are not in `teraflop`.
        name: The name of the file.
    """

    title: str
    paper: str
    source: str
    model: str | None
    model_note: str
    data: str | None
    data_note: str
    get: str
    read: dict[str, Any]
    pairs: int
    protocols: Sequence[str]
    metrics: Sequence[Any]
    methods: Mapping[str, Any]
    why: Sequence[str]
    teraflop: float
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    slow: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def reading(self, at: str) -> dict[str, Any]:
        """`read` with the hub name or the folder in its place."""
        filled: dict[str, Any] = _filled(self.read, at)
        return filled

    def plan(self, pairs: int, data: str | None, model: str | None) -> str:
        """What is going to be downloaded and done, and how long it takes, in lines.

        Args:
            pairs: How many pairs are measured.
            data: The folder that is given, if any.
            model: The model that is given, if any.
        """
        none = "not on the hub, so --{} FOLDER is needed"
        slow = f"; left out unless --slow true: {', '.join(self.slow)}" if self.slow else ""
        shown = [
            ("Table", f"{self.title} ({self.paper})"),
            ("Model", f"{model}, given" if model else f"{self.model or none.format('model')}; {self.model_note}"),
            ("Pairs", f"the first {pairs} of {data or self.data or none.format('data')}"),
            ("", "" if data else self.data_note),
            ("", "" if data else f"With no network, --data FOLDER: {self.get}"),
            ("Methods", ", ".join(self.methods) + slow),
            ("Protocol", ", then ".join(self.protocols)),
            ("Time", f"{duration(self.seconds(pairs))} on this machine, by the speed of its matrix products"),
            ("Published", self.source),
        ]
        return "\n".join(f"{head:10}{text}" for head, text in shown if text)

    def seconds(self, pairs: int) -> float:
        """How long so many pairs take here with the table's model, estimated without it."""
        return pairs * self.teraflop / speed()


def table_names() -> list[str]:
    """The tables that have a file, sorted.

    >>> "nib-cc" in table_names()
    True
    """
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def load_table(name: str) -> PublishedTable:
    """The table of a name, or of a YAML file of yours.

    Raises:
        ValueError: There is no such table, or the file has other fields.
    """
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"Expected a table of {', '.join(table_names())} but got {name}. Remedy: choose one of these.")
    try:
        return PublishedTable(**yaml.safe_load(path.read_text("utf-8")), name=path.stem)
    except (TypeError, yaml.YAMLError) as problem:
        raise ValueError(
            f"Expected the fields of a published table in {path} but got: {' '.join(str(problem).split())}. "
            "Remedy: correct them."
        ) from problem


def duration(seconds: float) -> str:
    """So many seconds as a person says them.

    >>> duration(40), duration(120), duration(89 * 60), duration(90 * 60)
    ('about 1 minute', 'about 2 minutes', 'about 89 minutes', 'about 2 hours')
    """
    minutes = max(1, round(seconds / 60))
    count, unit = (minutes, "minute") if minutes < 90 else (round(minutes / 60), "hour")
    return f"about {count} {unit}{'s' * (count > 1)}"


def speed(seconds: float = 0.3) -> float:
    """10^12 operations a second in products of matrices as large as those of a vision transformer, on this machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, weight = torch.ones(1024, 768, device=device), torch.ones(768, 3072, device=device)
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or done < 3:
        (x @ weight)[0, 0].item()  # waits for the device
        done += 1
    return done * 2 * x.numel() * weight.shape[1] / passed / 1e12


def _filled(value: Any, at: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, at) for key, inner in value.items()}
    return value.format(at=at) if isinstance(value, str) else value
