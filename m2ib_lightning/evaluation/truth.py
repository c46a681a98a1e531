"""Which tokens a text's ground truth means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from m2ib_lightning.attribution import Attribution

if TYPE_CHECKING:
    from numpy.typing import NDArray


def shares(start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether characters share one with a span; to touch is not to share."""
    return any(start < right and end > left for left, right in spans)


def true_tokens(attribution: Attribution, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """(L,) bool, the content tokens that share a character with one of the spans."""
    return np.array(
        [
            not special and shares(start, end, spans)
            for (start, end), special in zip(attribution.spans, attribution.special, strict=True)
        ],
        dtype=bool,
    )
