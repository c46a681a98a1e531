"""What a map should find, where data says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from m2ib_lightning.attribution import Attribution

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Truth(NamedTuple):
    """The truth about one pair; None for what is not known.

    Attributes:
        mask: (H, W) bool, the pixels of what the text names, in the picture as it was read.
        spans: (start, end) characters of the text that name what is shown.
    """

    mask: NDArray[np.bool_] | None = None
    spans: Sequence[tuple[int, int]] | None = None


def truth_of(references: Any, index: int) -> Truth:
    """The truth about pair `index` of a data module's `pairs`: that of its scene, or none."""
    if not hasattr(references, "scene"):
        return Truth()
    scene = references.scene(index)
    return Truth(scene.mask, scene.spans)


def true_tokens(attribution: Attribution, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """(L,) bool, the content tokens that share a character with one of the spans."""
    return np.array(
        [
            not special and any(start < right and end > left for left, right in spans)
            for (start, end), special in zip(attribution.spans, attribution.special, strict=True)
        ],
        dtype=bool,
    )
