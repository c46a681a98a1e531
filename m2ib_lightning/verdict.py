"""Whether an attribution can be believed, judged by what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from m2ib_lightning.types import Modality

if TYPE_CHECKING:
    from m2ib_lightning.attribution import Attribution

Verdict = Literal["ok", "not_finite", "no_match", "similarity_lost", "uninformative", "not_converged"]
"""What is said of a map: "ok", or the first of these reasons not to believe it that holds."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

SENTENCES: dict[Verdict, str] = {
    "ok": "Nothing that was measured speaks against this map.",
    "not_finite": "The loss was not a finite number, so there is no map. Remedy: look for inf or nan in your loss term "
    "or weights, or lower the learning rate.",
    "no_match": "The model finds this pair no more similar than pairs that do not belong together, so there is nothing "
    "to explain. Remedy: check that caption and picture match, and that the model knows both.",
    "similarity_lost": "Little of the pair's similarity is left through the bottleneck, so the map misses what made "
    "it. Remedy: `keep=0.9`, a smaller beta, or `m2ib calibrate` for layers that suit the model.",
    "uninformative": "The masks let through next to nothing, as for a model or text that says nothing of the other "
    "side. Remedy: a smaller beta, or `m2ib calibrate` for layers that suit the model.",
    "not_converged": "The loss was still changing, or diverged, when the fit ended. Remedy: more steps, or a lower "
    "learning rate.",
}
"""What each verdict means and what can be done, in words for a person."""


SHORTER = 5.0
"""What the threshold of nats is divided by where the target is a difference: of a phrase, a region or a foil."""


@dataclass(frozen=True)
class Thresholds:
    """Where a verdict begins to speak against a map; a user may change each.

    Attributes:
        match: The least that the pair's similarity must stand above those of its image with captions of other pictures,
            and of its text with other pictures, in standard deviations of those.
        image_left: The least share of the clean similarity that must be left through the image's bottleneck, in 0..1.
            The default beta spends most of it where a caption names several objects, and points at them all the same.
            With `keep` it is `slack` below what was to be kept.
        text_left: The same for the text's bottleneck, whose default beta leaves all of it.
        slack: How much less than `keep` may be left, as a share of the clean similarity.
        nats: The least that the token that lets through most must let through, in nats; a fifth of it against foils and
            for phrases where something else is there in their place.
        falling: The most that the last step may have lowered the loss, as a share of its whole fall.
    """

    match: float = 1.5
    image_left: float = 0.1
    text_left: float = 0.5
    slack: float = 0.05
    nats: float = 5.0
    falling: float = 0.2


def judge(a: Attribution, modality: Modality, thresholds: Thresholds | None = None) -> Verdict:
    """What is to be said of one of the two maps of a result.

    Args:
        a: The result that is judged.
        modality: Which of its maps is judged.
        thresholds: Where each verdict begins; by default those that the result was made with.

    Returns:
        "ok", or the first of the other verdicts, in the order of `VERDICTS`, that holds.
    """
    limits = thresholds or check_thresholds(a.settings.get("thresholds"))
    reasons: dict[Verdict, bool] = {
        "not_finite": _not_finite(a, modality),
        "no_match": any(match < limits.match for match in (a.image_match, a.text_match)),
        "similarity_lost": _similarity_lost(a, modality, limits),
        "uninformative": _uninformative(a, modality, limits),
        "not_converged": _not_converged(a, limits),
    }
    return next((reason for reason, holds in reasons.items() if holds), "ok")


def is_doubtful(a: Attribution, modality: Modality) -> bool:
    """Whether one of the maps of a result should not be believed; a map that was not asked for is in no doubt."""
    return a.verdicts.get(modality, "ok") != "ok"


def is_difference(a: Attribution, modality: Modality) -> bool:
    """Whether a map of M2IB is against a foil or a rival, so that what is left of its relevance is no similarity."""
    return not math.isfinite(a.score_through(modality))


def headline(a: Attribution) -> str:
    """The verdict on a result in a few words for a person, with the map that it is about if it is not both.

    The words are "ok" or, for example, "Doubtful: similarity lost (caption)".
    """
    word = a.verdict
    if word == "ok":
        return word
    of = [modality for modality, found in a.verdicts.items() if found == word]
    which = "" if len(of) == len(a.verdicts) else f" ({'picture' if of == ['image'] else 'caption'})"
    return f"Doubtful: {word.replace('_', ' ')}{which}"


def check_thresholds(said: Mapping[str, float] | None) -> Thresholds:
    """The thresholds with some of them changed.

    Args:
        said: The changed ones, by name.

    Raises:
        ValueError: There is no threshold of such a name.
    """
    known, said = {field.name for field in fields(Thresholds)}, said or {}
    if not set(said) <= known:
        raise ValueError(
            f"Expected `thresholds` to name some of {', '.join(sorted(known))} but got {', '.join(set(said) - known)}. "
            "Remedy: correct the name."
        )
    return Thresholds(**said)


def _not_finite(a: Attribution, modality: Modality) -> bool:
    values = a.map_of(modality)
    lost = a.stop_reason == "non_finite" or not math.isfinite(a.score)
    return lost or values is None or not bool(np.isfinite(values).all())


def _similarity_lost(a: Attribution, modality: Modality, limits: Thresholds) -> bool:
    usual = limits.image_left if modality == "image" else limits.text_left
    least = usual if (keep := a.settings.get("keep")) is None else keep - limits.slack
    # False where a method has no bottleneck and the score through it is nan.
    return bool(a.score_through(modality) < least * a.score)


def _uninformative(a: Attribution, modality: Modality, limits: Thresholds) -> bool:
    values = a.map_of(modality)
    # A difference of two captions or pictures is shorter than a whole direction, and weighs less against compression.
    least = limits.nats / (SHORTER if is_difference(a, modality) else 1)
    return values is not None and a.unit == "nats" and float(values.max()) < least


def _not_converged(a: Attribution, limits: Thresholds) -> bool:
    if a.stop_reason in ("diverged", "interrupted"):
        return True
    loss = a.history.get("loss/total")
    if loss is None or len(loss) < 2 or a.stop_reason == "converged" or a.settings.get("keep"):
        return False
    return float(loss[-2] - loss[-1]) > limits.falling * max(float(loss[0] - loss.min()), 1e-6)
