"""What the page is told of an answer, as plain values: JSON that `view.js` draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.display import decimals, on_no_word
from m2ib_lightning.inline import bytes_text, number
from m2ib_lightning.parts import Phrase
from m2ib_lightning.report.table import place
from m2ib_lightning.verdict import SENTENCES, headline

if TYPE_CHECKING:
    from numpy.typing import NDArray


def message(text: str, error: bool = False) -> dict[str, Any]:
    """An answer in words alone."""
    return {"message": text, "error": error}


def frame(a: Attribution) -> dict[str, Any]:
    """One step of a fit: its map and the values of its words."""
    return {"map": None if a.image_map is None else cells(a.image_map), "words": _words(a)}


def view(
    a: Attribution,
    frames: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    """An answer.

    Args:
        a: The result that is shown.
        frames: Of the steps on the way, the last one that of `a`.
        more: Further values: "running", "total", "against", ...
    """
    words = [] if a.text_map is None else a.words()
    digits = decimals(*(value for _, value in words))
    return {
        "text": a.text,
        "words": [word for word, _ in words],
        "values": [f"{value:{digits}}" for _, value in words],
        "frames": list(frames) or [frame(a)],
        "unit": a.unit,
        "view": [round(edge, 4) for edge in a.view],
        "special": on_no_word(a),
        "scores": _scores(a),
        "wordMaps": {str(place): _word_map(phrase) for place, phrase in phrase_of_words(a).items()},
        "truncated": a.truncated,
        "where": "" if a.image_map is None else place(*a.strongest_region()),
        "verdict": None if more.get("running") else _verdict(a),
        **more,
    }


def cells(values: NDArray[np.float32]) -> dict[str, Any]:
    """A map as bytes: 0 for 0 and less, 255 for its highest value."""
    top = max(0.0, float(values.max()))
    scaled = values.clip(min=0) * (255 / top if top > 0 else 0)
    return {"rows": values.shape[0], "columns": values.shape[1], "top": number(top), "cells": bytes_text(scaled)}


def phrase_of_words(a: Attribution) -> dict[int, Phrase]:
    """The phrases, by the place of each of their words in the caption."""
    return {
        place: phrase
        for phrase in a.phrases
        for place, (start, end, _) in enumerate(a.word_spans())
        if phrase.span[0] <= start and end <= phrase.span[1]
    }


def _word_map(phrase: Phrase) -> dict[str, Any]:
    """Where a phrase is in the picture."""
    return cells(phrase.image_map) | {
        "effect": number(phrase.effect), "text": phrase.text, "verdict": phrase.verdict,
    }  # fmt: skip


def _verdict(a: Attribution) -> dict[str, Any]:
    """Whether the maps can be believed, in words: of both if it is the same, else of the first that is doubtful."""
    return {"ok": a.verdict == "ok", "head": headline(a), "says": SENTENCES[a.verdict]}


def _words(a: Attribution) -> list[float | None]:
    return [] if a.text_map is None else [number(value) for _, value in a.words()]


def _scores(a: Attribution) -> list[tuple[str, str]]:
    """Similarities by their names."""
    named = (
        ("Similarity of picture and caption", a.score),
        ("with the picture through its bottleneck", a.image_score),
        ("with the caption through its bottleneck", a.text_score),
    )
    return [(name, f"{value:.2f}".replace("-", "−")) for name, value in named if math.isfinite(value)]
