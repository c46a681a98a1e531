"""Words with their values, as a table in Markdown and in one line."""

from __future__ import annotations

from collections.abc import Sequence

from m2ib_lightning.display import Words, decimals


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
