"""Which pairs are no longer what they were when they were explained."""

from __future__ import annotations

from collections.abc import Mapping

from m2ib_lightning.data.images import is_same_image
from m2ib_lightning.data.pairs import PairSource
from m2ib_lightning.types import BadPair


def changed_pairs(source: PairSource, before: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """What has changed of each pair that has: "caption", "image", or both. No image is decoded.

    Args:
        source: The pairs as they are now.
        before: Caption and fingerprint of the image by the pair's id; see `Pair.fingerprint`.
    """
    changed: dict[str, str] = {}
    if source.fixed or not before:
        return changed
    for pair in source:
        if isinstance(pair, BadPair) or pair.id not in before:
            continue
        text, fingerprint = before[pair.id]
        what = ["caption"] * (str(pair.text) != text) + ["image"] * (not is_same_image(pair.image, fingerprint))
        if what:
            changed[pair.id] = " and ".join(what)
    return changed
