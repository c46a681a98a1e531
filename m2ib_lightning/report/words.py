"""Words with their values: placed in lines for a picture, as a table in Markdown, and in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from m2ib_lightning.display import Chip, Words, decimals


class Placed(NamedTuple):
    """A word's place in a picture.

    Attributes:
        chip: The word, its label and its shade.
        line: The line that it stands in, from 0.
        x: The left edge of the word's ground.
        width: How wide the word's ground is.
    """

    chip: Chip
    line: int
    x: float
    width: float


def place(words: Iterable[tuple[Chip, float]], room: float, gap: float) -> list[Placed]:
    """Words with their widths side by side, in as many lines as they need.

    Args:
        words: The chips in the text's order, each with its width; one that is wider than a line gets it whole.
        room: The width of a line, in the unit of the widths.
        gap: What is left between two words.

    Returns:
        Each word with its line and its left edge, which is 0 for the first word of a line.
    """
    placed: list[Placed] = []
    line, x = 0, 0.0
    for chip, width in words:
        width = min(room, width)
        if x > 0 and x + width > room:
            line, x = line + 1, 0.0
        placed.append(Placed(chip, line, x, width))
        x += width + gap
    return placed


def words_markdown(words: Words) -> str:
    """A row for every word.

    >>> print(words_markdown([("a", 10.2, 0.1), ("cat", 160.4, 0.5)]))
    | word | nats | mask value |
    |---|---|---|
    | a | 10 | 0.10 |
    | cat | 160 | 0.50 |
    """
    digits = decimals(*(nats for _, nats, _ in words))
    rows = [f"| {word.replace('|', chr(92) + '|')} | {nats:{digits}} | {mask:.2f} |" for word, nats, mask in words]
    return "\n".join(["| word | nats | mask value |", "|---|---|---|", *rows])


def words_line(words: Sequence[tuple[str, float]]) -> str:
    """The words with their values in one line, highest first.

    >>> words_line([("a", 10.2), ("cat", 160.4)])
    'cat 160, a 10'
    """
    digits = decimals(*(value for _, value in words))
    return ", ".join(f"{word} {value:{digits}}" for word, value in sorted(words, key=lambda word: -word[1]))
