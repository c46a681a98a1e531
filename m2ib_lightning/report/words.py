"""Words with their values, as a piece of HTML and as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from m2ib_lightning.report.page import decimals

Words = Sequence[tuple[str, float, float]]
"""(word, nats, mean of lambda_)."""


def words_html(words: Words, top: float, title: str = "") -> str:
    """The text with every word on a shaded ground, its nats below it and its mask value where the mouse points.

    Args:
        words: In the text's order.
        top: Nats of the darkest shade.
        title: Shown above, if given.
    """
    digits = decimals(*(nats for _, nats, _ in words))
    head = f"<div style='color:#6b6b6b;margin-bottom:6px'>{escape(title)}</div>" if title else ""
    return (
        f"<div style='font:16px sans-serif;color:#1a1a1a'>{head}"
        + "".join(
            "<span style='display:inline-block;text-align:center;margin:0 4px 6px 0' "
            f"title='mask value {mask:.2f}'><span style='display:block;padding:2px 6px;border:1px solid #d0d0d0;"
            f"border-radius:5px;background:rgba(245,132,60,{min(1.0, max(0.0, nats) / top) ** 0.5:.2f})'>{escape(word)}"
            f"</span><small style='color:#6b6b6b'>{nats:{digits}}</small></span>"
            for word, nats, mask in words
        )
        + "<small style='color:#6b6b6b'> nats per word</small></div>"
    )


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
