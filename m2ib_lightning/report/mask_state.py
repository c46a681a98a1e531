"""What a pair's masks are after some steps, and the scale that they are shown on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.display import scale_top

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MaskState(NamedTuple):
    """The masks of a pair after some steps of their fit.

    Attributes:
        step: Steps made, 0 before the first.
        loss: The loss of the last step, nan before the first.
        capacity: The pair, its maps the nats that each token lets through.
        mask: The pair, its maps the mean of lambda_ over each token's channels, in [0, 1].
    """

    step: int
    loss: float
    capacity: Attribution
    mask: Attribution

    def words(self) -> list[tuple[str, float, float]]:
        """(word, nats, mean of lambda_) in the text's order; empty if the text is not explained."""
        if self.capacity.text_map is None:
            return []
        count = self.mask.words(np.ones(len(self.mask.tokens), np.float32))
        rows = zip(self.capacity.words(), self.mask.words(), count, strict=True)
        return [(word, nats, share / tokens) for (word, nats), (_, share), (_, tokens) in rows]


class FrameScale(NamedTuple):
    """The values that get the last colour, nats per patch and per word; the same in every frame of an animation."""

    patch: float
    word: float

    @classmethod
    def at_start(cls, state: MaskState) -> FrameScale:
        """Half of what the open masks let through, `NATS_FLOOR` at least.

        What is left at the end is seen, and where it came from too.
        """
        image = state.capacity.image_map
        highest = (float(image.max()) if image is not None else 0.0, max((n for _, n, _ in state.words()), default=0.0))
        return cls(*(scale_top(_round_up(value / 2), "nats") for value in highest))

    def share(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Nats of patches as places on the scale, in [0, 1]: the square root, so that a tenth of the top is seen."""
        return np.sqrt((values / self.patch).clip(0, 1)).astype(np.float32)


def _round_up(value: float) -> float:
    """The next number of one or two digits, for a scale that can be read.

    >>> _round_up(361.2), _round_up(0.052)
    (400.0, 0.06)
    """
    if not (value > 0 and math.isfinite(value)):
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.6g}")
