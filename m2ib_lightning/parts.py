"""What is known of a part of a pair: a phrase of its text, or a region of its picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m2ib_lightning.types import Box, Span

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(eq=False)
class Phrase:
    """A phrase of a text and where in the picture it is.

    Attributes:
        text: The phrase as it stands in the caption.
        span: Its (start, end) characters in the caption.
        effect: Similarity of the pair minus that without the phrase, or, where the picture shows both, minus that with
            what could stand in its place. Below 0 the phrase speaks against the pair.
        image_map: (gh, gw) float32 in the result's `unit`: what the picture must keep for that difference to stay.
        verdict: Whether the map can be believed, one of `m2ib_lightning.verdict.VERDICTS`.
    """

    text: str
    span: Span
    effect: float
    image_map: NDArray[np.float32]
    verdict: str = "ok"

    @property
    def against(self) -> bool:
        """Whether the pair is more similar without it; the map then shows what speaks against the phrase."""
        return self.effect < 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return {
            "text": self.text,
            "span": list(self.span),
            "effect": self.effect,
            "grid": list(self.image_map.shape),
            "values": self.image_map.ravel().tolist(),
            "verdict": self.verdict,
        }

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Phrase:
        """The phrase that gave these values by `as_dict`."""
        start, end = kept["span"]
        image_map = np.array(kept["values"], dtype=np.float32).reshape(kept["grid"])
        return cls(kept["text"], (start, end), kept["effect"], image_map, kept.get("verdict") or "ok")


@dataclass(eq=False)
class Region:
    """A region of a picture and which words speak about it.

    Attributes:
        box: (left, top, right, bottom) around it, in fractions of the picture's width and height.
        effect: Similarity of the pair minus that without the region. Below 0 it speaks against the pair.
        text_map: (L,) float32 in the result's `unit`, one value a token.
    """

    box: Box
    effect: float
    text_map: NDArray[np.float32]

    @property
    def against(self) -> bool:
        """Whether the pair is more similar without it; the map then shows which words the region speaks against."""
        return self.effect < 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return {"box": list(self.box), "effect": self.effect, "values": self.text_map.tolist()}

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Region:
        """The region that gave these values by `as_dict`."""
        left, top, right, bottom = kept["box"]
        return cls((left, top, right, bottom), kept["effect"], np.array(kept["values"], dtype=np.float32))


def find_spans(text: str, phrases: Sequence[str | Span]) -> list[Span]:
    """The (start, end) characters of phrases in a text; of a phrase that is there several times, the first.

    >>> find_spans("a red crab and a tree", ["red crab", (17, 21)])
    [(2, 10), (17, 21)]

    Raises:
        ValueError: A phrase is not in the text, or characters are not.
    """
    return [_find(text, phrase) for phrase in phrases]


def is_in(phrase: str, text: str) -> bool:
    """Whether a phrase is in a text as whole words, upper or lower case.

    >>> is_in("Crab", "a red crab"), is_in("cra", "a red crab")
    (True, False)
    """
    return _match(phrase, text) is not None


def _match(phrase: str, text: str) -> re.Match[str] | None:
    phrase = phrase.strip()
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) if phrase else None


def _find(text: str, phrase: str | Span) -> Span:
    if isinstance(phrase, str):
        found = _match(phrase, text)
        if found is None:
            raise ValueError(
                f"Expected a phrase of the text {text[:60]!r} but got {phrase!r}. "
                "Remedy: name words as they stand there."
            )
        return found.span()
    start, end = phrase
    if not (0 <= start < end <= len(text) and text[start:end].strip()):
        raise ValueError(
            f"Expected the (start, end) characters of words of {text[:60]!r} but got {(start, end)}. "
            f"Remedy: 0 <= start < end <= {len(text)}."
        )
    return start, end
