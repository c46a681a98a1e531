"""Texts of others in a terminal: shown, not obeyed."""

from __future__ import annotations

import re

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1, among them the start of every escape sequence; tab and newline stay
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what stands beside them
    "\u2028\u2029\ud800-\udfff]"  # line ends that are none to a terminal, and halves of characters
)


def printable(text: str) -> str:
    r"""The text with everything that steers a terminal written out.

    Letters of every script stay, those written from right to left as well.

    >>> print(printable("a \x1b[31mred\x1b[0m cat \u202etac"))
    a \x1b[31mred\x1b[0m cat \u202etac
    """
    return UNSAFE.sub(lambda found: _written_out(ord(found[0])), text)


def _written_out(code: int) -> str:
    return f"\\x{code:02x}" if code <= 0x9F else f"\\u{code:04x}"
