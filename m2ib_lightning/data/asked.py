"""What is asked of a pair beside its two maps, as cells of a table and options say it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from m2ib_lightning.parts import find_spans, is_in
from m2ib_lightning.types import Asked, BadPair, Pair, Span

KEYWORDS = ("auto", "words")
"""What stands for phrases that depend on the text: the words that carry most of it, or each of its words."""

Wanted = Literal["auto", "words", "truth"] | Sequence[str] | None
"""Phrases that are asked of every pair: "auto", "words", those of a list that its text has, or those that its truth
knows, with the regions that they name."""


def ask_all(pairs: Sequence[Pair | BadPair], phrases: Wanted = None) -> list[Pair | BadPair]:
    """The pairs, each that does not say what phrases it is asked for asked for these.

    Args:
        pairs: The pairs of a batch, bad ones among them.
        phrases: "auto", "words", or phrases, of which each pair is asked for those that its text has; or "truth".
    """
    if phrases is None:
        return list(pairs)
    return [
        pair
        if isinstance(pair, BadPair) or pair.asked.phrases is not None
        else pair._replace(asked=_asked_for(pair, phrases))
        for pair in pairs
    ]


def _asked_for(pair: Pair, phrases: Literal["auto", "words", "truth"] | Sequence[str]) -> Asked:
    if phrases == "truth":
        named = [part for part in pair.truth.parts if part.span is not None and part.mask.any()]
        return pair.asked._replace(phrases=[part.span for part in named], regions=[part.mask for part in named])
    if isinstance(phrases, str):
        return pair.asked._replace(phrases=phrases)
    return pair.asked._replace(phrases=find_spans(pair.text, [p for p in phrases if is_in(p, pair.text)]))


def read_asked(asked: Asked, text: str) -> Asked:
    """What is asked of a pair, from the cells of a table: phrases by their characters, nothing where a cell is empty.

    >>> read_asked(Asked("red crab; tree"), "a red crab and a tree").phrases
    [(2, 10), (17, 21)]

    Raises:
        ValueError: A phrase is not in the text, or a cell holds something else.
    """
    phrases, against = asked.phrases, asked.against
    if isinstance(phrases, str):
        phrases = phrases.strip()
        if phrases.startswith("["):
            phrases = _json(phrases)
        elif phrases not in KEYWORDS:
            phrases = [phrase.strip() for phrase in phrases.split(";") if phrase.strip()]
    if not phrases:
        phrases = None
    elif not isinstance(phrases, str):
        phrases = find_spans(text, [phrase if isinstance(phrase, str) else _span(phrase) for phrase in phrases])
    if isinstance(against, str) and not against.strip():
        against = None
    return asked._replace(phrases=phrases, against=against)


def _json(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise ValueError(
            f'Expected phrases but got {cell!r:.80}. Remedy: "auto", phrases split by semicolons, or a list as JSON.'
        ) from None


def _span(value: Any) -> Span:
    try:
        start, end = value
        return int(start), int(end)
    except (TypeError, ValueError):
        raise ValueError(
            f"Expected a phrase or its [start, end] characters but got {value!r:.80}. Remedy: one of these."
        ) from None
