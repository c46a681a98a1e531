"""The pairs of a finished fit as a table: a page for a browser and a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.display import words_html
from m2ib_lightning.report.words import words_line

COLUMNS = (
    "pair", "text", "words", "similarity", "image_similarity", "text_similarity", "image_compression",
    "text_compression", "steps", "stop_reason",
)  # fmt: skip
"""Similarity of the clean pair and through each bottleneck; compression in nats, the mean over tokens and channels."""


class PairResult(NamedTuple):
    """What is shown of one pair.

    Attributes:
        attribution: Its result.
        image: A file with the picture.
        overlay: A file with the map over the picture, None if the image was not explained.
        animation: A file with the fit's pictures, None if there is none.
        word_top: Nats of the darkest word.
        words: (word, nats, mean of lambda_).
    """

    attribution: Attribution
    image: Path
    overlay: Path | None
    animation: Path | None
    word_top: float
    words: list[tuple[str, float, float]]

    def values(self) -> tuple[str | float | int, ...]:
        """One value for each of `COLUMNS`, nan where there is none."""
        a = self.attribution
        last = {name: float(values[-1]) for name, values in a.history.items() if len(values)}
        compression = [last.get(f"{modality}/compression", math.nan) for modality in ("image", "text")]
        words = words_line([(word, nats) for word, nats, _ in self.words])
        return a.id, a.text, words, a.score, a.image_score, a.text_score, *compression, a.steps, a.stop_reason


def write_pairs(results: Sequence[PairResult], folder: Path) -> None:
    """Write `pairs.csv` and `pairs.html`, which shows the files beside it."""
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *(result.values() for result in results)])
    rows = "".join(_row(result, folder) for result in results)
    heads = ("pair", "image", "attribution", "fit", "words", "similarity", "compression, nats", "steps")
    (folder / "pairs.html").write_text(
        "<!doctype html><meta charset=utf-8><title>Pairs</title><style>body{font:15px sans-serif;margin:24px}"
        "td,th{padding:8px;border-bottom:1px solid #d0d0d0;text-align:left;vertical-align:top}</style><table><tr>"
        f"{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>\n",
        encoding="utf-8",
    )


def _row(result: PairResult, folder: Path) -> str:
    a, values = result.attribution, dict(zip(COLUMNS, result.values(), strict=True))
    cells = [
        f"<b>{escape(a.id)}</b>",
        *(_picture(file, folder) for file in (result.image, result.overlay, result.animation)),
        words_html(result.words, result.word_top) if result.words else escape(a.text),
        f"{a.score:.3f}" + _both(a.image_score, a.text_score, "→ "),
        _both(float(values["image_compression"]), float(values["text_compression"])),
        f"{a.steps}<br>{escape(a.stop_reason.replace('_', ' '))}",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _both(image: float, text: float, before: str = "") -> str:
    pairs = (("image", image), ("text", text))
    return "".join(f"<br>{before}{name} {value:.3g}" for name, value in pairs if not math.isnan(value))


def _picture(file: Path | None, folder: Path) -> str:
    return "" if file is None else f"<img src='{escape(file.relative_to(folder).as_posix())}' height=220>"
