"""Which characters of a text a token stands for, and how a token is shown, for BPE, WordPiece and SentencePiece."""

from __future__ import annotations

from collections.abc import Sequence

SPACE = "▁"
"""SentencePiece's mark for a space."""


def tidy_spans(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Characters of each token without the spaces around them, which SentencePiece counts to its tokens.

    A token that is nothing but a space belongs to the word that follows: it gets the next token's characters.

    Args:
        text: The text that the tokens were made from.
        spans: As the tokenizer gives them, (0, 0) for special tokens.

    Example:
        >>> tidy_spans("a cat sat", [(0, 1), (1, 5), (5, 6), (6, 9), (0, 0)])
        [(0, 1), (2, 5), (6, 9), (6, 9), (0, 0)]
    """
    tidy: list[tuple[int, int]] = []
    for start, end in reversed(spans):
        inside = text[start:end]
        if inside.strip():
            start, end = end - len(inside.lstrip()), start + len(inside.rstrip())
        elif inside:
            start, end = tidy[-1] if tidy and tidy[-1] != (0, 0) else (end, end)
        tidy.append((start, end))
    return tidy[::-1]


def shown_token(token: str, characters: str) -> str:
    """A token as it is shown: its entry in the vocabulary without the marks of where words begin or end.

    Entries that are bytes in disguise (byte-level BPE writes "é" as "Ã©") are shown as the text's own characters.

    Args:
        token: Its entry in the vocabulary.
        characters: The characters that it stands for in the text, "" for special tokens.

    Example:
        >>> shown_token("cat</w>", "Cat"), shown_token("##ing", "ing"), shown_token("▁cat", "cat")
        ('cat', 'ing', 'cat')
        >>> shown_token("cafÃ©</w>", "café"), shown_token("<pad>", "")
        ('café', '<pad>')
    """
    plain = token.removesuffix("</w>").replace(SPACE, "").removeprefix("Ġ")
    if characters:
        plain = plain.removeprefix("##") or plain
    hidden = not plain.isascii() or (plain.startswith("<0x") and plain.endswith(">"))
    return characters if characters and hidden else plain or token


def match_spans(tokens: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Where tokens are in a text, for tokenizers that do not say.

    Their characters are looked for one after the other, in any case; characters of the text that are in no token
    (SigLIP's tokenizer drops punctuation) are passed over. A token that is not found has an empty span.

    Args:
        tokens: In the text's order, "" for special tokens.
        text: The text that they were made from.

    Example:
        >>> match_spans(["▁a", "▁cat", "s", ""], "A cat's")
        [(0, 1), (2, 5), (6, 7), (0, 0)]
    """
    spans: list[tuple[int, int]] = []
    position = 0
    for token in tokens:
        start = end = position
        for place, character in enumerate(token.replace(SPACE, "").casefold()):
            found = _find(character, text, end, within_a_word=place > 0)
            if found is None:
                break
            start, end = start if place else found, found + 1
        position = max(position, end)
        spans.append((start, end) if token else (0, 0))
    return spans


def _find(character: str, text: str, start: int, within_a_word: bool) -> int | None:
    for index in range(start, len(text)):
        if character in text[index].casefold():
            return index
        if within_a_word and text[index].isalnum():
            return None
    return None
