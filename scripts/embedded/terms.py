"""What an object may be called, and the captions that say only that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from m2ib_lightning.data.scene_kinds import COLOURS
from m2ib_lightning.data.scenes import SceneObject, make_caption, object_names

TERMS = tuple(f"{colour} {name}".strip() for colour in ("", *COLOURS) for name in object_names())
"""Every name, alone and in every colour."""


def terms_of(objects: Iterable[SceneObject]) -> np.ndarray:
    """(terms,) bool, what the objects may be called."""
    fitting = {term for item in objects for term in (item.name, item.called)}
    return np.array([term in fitting for term in TERMS])


def captions_of(terms: Sequence[str], rng: np.random.Generator | None = None) -> list[str]:
    """A caption for each term, in random phrasings or, without a generator, "a photo of a ..."."""
    if rng is not None:
        return [make_caption((term,), rng)[0] for term in terms]
    return [f"a photo of {'an' if term[0] in 'aeiou' else 'a'} {term}" for term in terms]
