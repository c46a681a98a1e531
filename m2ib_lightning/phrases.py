"""Which words with which regions: a map for each phrase of a text, and words for each region of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal, cast

import numpy as np
import torch
from einops import rearrange

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data.asked import KEYWORDS
from m2ib_lightning.data.images import ImageLike, ImageSource, check_image, image_name
from m2ib_lightning.losses import along
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.parts import Phrase, Region, find_spans
from m2ib_lightning.targets import (
    SHOWN,
    Against,
    AgainstAlike,
    Difference,
    OtherModality,
    PhraseOut,
    RegionOut,
    WithoutPhrase,
    WithoutRegion,
    box_region,
    put,
    unit,
    words_in,
)
from m2ib_lightning.types import Box, Modality, Pair, PairBatch, Span
from m2ib_lightning.verdict import judge

Phrases = Sequence[str | Span] | Literal["auto", "words"]
"""Phrases of a text, by themselves or by their characters; "auto", the words that carry most of it; "words", each."""

RegionLike = Box | np.ndarray
"""A box (left, top, right, bottom) in pixels of the picture, or its pixels as (H, W) bool."""


@torch.inference_mode(False)  # targets take part in gradients
def explain_parts(method: AttributionMethod, batch: PairBatch) -> list[Attribution]:
    """Explain a batch of pairs, against their foils where they have some, and the phrases and regions asked for.

    Args:
        method: The method that explains.
        batch: The pairs, each with what is asked of it.

    Raises:
        ValueError: A phrase is not in its text, a region not in its picture, or the method does not explain them.
    """
    for pair in batch.pairs:
        pixels_of(pair)  # said before anything is computed
    foiled = [row for row, pair in enumerate(batch.pairs) if pair.asked.against is not None]
    if not foiled:
        return add_parts(method, batch, method.attribute(batch))
    others = [row for row in range(len(batch.pairs)) if row not in foiled]
    found = dict(zip(foiled, method.attribute(aimed(method.prepare(), batch.keep(foiled))), strict=True))
    if others:  # apart, so that they come out as they do without foils beside them
        found |= dict(zip(others, method.attribute(batch.keep(others)), strict=True))
    return add_parts(method, batch, [found[row] for row in range(len(batch.pairs))])


def aimed(backbone: Backbone, batch: PairBatch) -> PairBatch:
    """The batch against the foils of its pairs; a pair without one against the other modality.

    Raises:
        ValueError: A foil cannot be read.
    """
    foils = {row: pair.asked.against for row, pair in enumerate(batch.pairs) if pair.asked.against is not None}
    if not foils:
        return batch
    aimed = OtherModality().aim(backbone, batch)
    modalities: tuple[Modality, ...] = ("text", "image")
    for modality in modalities:
        rows = [row for row, foil in foils.items() if foil_modality(foil) == modality]
        if rows:
            aimed = put(aimed, rows, Against([foils[row] for row in rows], modality).aim(backbone, batch.keep(rows)))
    return aimed


def add_parts(method: AttributionMethod, batch: PairBatch, results: list[Attribution]) -> list[Attribution]:
    """The results with the foils, phrases and regions that were asked for.

    Raises:
        ValueError: The method does not explain what is asked for.
    """
    asked = [pair.asked for pair in batch.pairs]
    for a, wanted in zip(results, asked, strict=False):
        if wanted.against is not None:
            named = wanted.against if isinstance(wanted.against, str) else image_name(wanted.against)
            a.settings = {**a.settings, "against": named}
    if any(wanted.phrases is not None for wanted in asked):
        spans = [
            strongest_phrases(a) if wanted.phrases == "auto" else _spans(a.text, wanted.phrases)
            for a, wanted in zip(results, asked, strict=True)
        ]
        for a, phrases in zip(results, explain_phrases(method, batch, spans), strict=True):
            a.phrases = phrases
    if any(len(wanted.regions) for wanted in asked):
        words = explain_regions(method, batch, [pixels_of(pair) for pair in batch.pairs])
        for a, regions in zip(results, words, strict=True):
            a.regions = regions
    return results


def _spans(text: str, phrases: Sequence[Span] | Literal["words"] | None) -> list[Span]:
    return words_in(text) if phrases == "words" else list(phrases or ())


def pixels_of(pair: Pair) -> list[np.ndarray]:
    """(H, W) bool of each region that is asked for.

    Raises:
        ValueError: One is not in the picture.
    """
    return [region_pixels(region, pair.image.size) for region in pair.asked.regions]


def explain_phrases(
    method: AttributionMethod, batch: PairBatch, spans: Sequence[Sequence[Span]], out: PhraseOut | None = None
) -> list[list[Phrase]]:
    """Where in its picture each phrase of each text is.

    All phrases of all pairs are explained side by side, in one batch. The effect is that of taking the phrase out, or,
    where the picture shows it beside what could stand in its place, that of what could. The map is that of what could
    stand in its place, `AgainstAlike`; of a phrase that speaks against, and where `out` says how, that of taking it out
    too.

    Args:
        method: The method that explains.
        batch: The pairs whose phrases are looked for.
        spans: The (start, end) characters of the phrases of each pair.
        out: How a phrase is taken out of its text, `targets.PhraseOut`.

    Raises:
        ValueError: The method does not explain images.
    """
    rows = [row for row, of_pair in enumerate(spans) for _ in of_pair]
    flat = [span for of_pair in spans for span in of_pair]
    found, sizes = _explain_parts(
        method, batch, rows, WithoutPhrase(flat, out or "mean"), "image", None if out else AgainstAlike(flat)
    )
    lost = np.full((1, 1), np.nan, dtype=np.float32)  # of a fit that came to no finite loss
    results: list[list[Phrase]] = [[] for _ in spans]
    for row, (start, end), a, effect in zip(rows, flat, found, sizes, strict=True):
        values = lost if a.image_map is None else a.image_map
        text = batch.pairs[row].text[start:end]
        results[row].append(Phrase(text, (start, end), effect, values, judge(a, "image")))
    return results


def explain_regions(
    method: AttributionMethod, batch: PairBatch, regions: Sequence[Sequence[np.ndarray]], out: RegionOut = "blurred"
) -> list[list[Region]]:
    """Which words speak about each region of each picture; side by side, as `explain_phrases` does.

    Args:
        method: The method that explains.
        batch: The pairs whose regions are asked about.
        regions: The regions of each pair, (H, W) bool in the pixels of its picture.
        out: How a region is taken out of its picture, `targets.RegionOut`.

    Raises:
        ValueError: The method does not explain texts.
    """
    rows = [row for row, of_pair in enumerate(regions) for _ in of_pair]
    flat = [region for of_pair in regions for region in of_pair]
    found, sizes = _explain_parts(method, batch, rows, WithoutRegion(flat, out), "text")
    results: list[list[Region]] = [[] for _ in regions]
    for row, region, a, effect in zip(rows, flat, found, sizes, strict=True):
        values = np.full(len(a.tokens), np.nan, dtype=np.float32) if a.text_map is None else a.text_map
        results[row].append(Region(around(region), effect, values))
    return results


def _explain_parts(
    method: AttributionMethod,
    batch: PairBatch,
    rows: list[int],
    target: Difference,
    modality: Modality,
    sharper: AgainstAlike | None = None,
) -> tuple[list[Attribution], list[float]]:
    """The results of these rows of a batch against a target, and the effect of each.

    Where that and `Contest.shown` are above 0, they are explained against a sharper target, if there is one. The
    `score` of the results is how far the clean pair points along what it is explained against, `image_score` what is
    left of it; nan where something is opposed to it, since along one of two rivals nothing at all is not 0.
    """
    if modality not in method.modalities:
        raise ValueError(
            f"Expected a method that explains the {modality} but got modalities={list(method.modalities)}. "
            f"Remedy: name {modality!r} in `modalities`."
        )
    if not rows:
        return [], []
    backbone, many = method.prepare(), batch.keep(rows)
    aimed = target.aim(backbone, many)
    assert aimed.targets is not None
    clean = unit(backbone, modality, many)
    sizes = along(clean, aimed.targets[modality])
    if sharper is not None:
        contest = sharper.contest(backbone, many)
        sizes = torch.where(contest.contested & (contest.shown >= SHOWN), contest.effect, sizes)
    # What lowers the similarity is looked for where it does so.
    sign = rearrange(torch.where(sizes < 0, -1.0, 1.0), "b -> b 1")
    assert aimed.opposed is not None
    aimed = aimed._replace(
        targets={m: sign * direction for m, direction in aimed.targets.items()},
        opposed={m: sign * direction for m, direction in aimed.opposed.items()},
    )
    if sharper is not None:
        chosen = ((sizes > 0) & (contest.shown > 0)).nonzero()[:, 0].tolist()
        aimed = put(aimed, chosen, sharper.aim_at(contest, many).keep(chosen))
    assert aimed.targets is not None and aimed.opposed is not None
    scores = along(clean, aimed.targets[modality]).tolist()
    opposed = aimed.opposed[modality].any(-1).tolist()
    found = [
        replace(a, score=score, **({} if is_opposed else _through(a, modality)))
        for a, score, is_opposed in zip(method.attribute(aimed), scores, opposed, strict=True)
    ]
    return found, sizes.tolist()


def _through(a: Attribution, modality: Modality) -> dict[str, Any]:
    relevance = a.history.get(f"{modality}/relevance")
    return {} if relevance is None else {f"{modality}_score": float(relevance[-1])}


def phrases_of_each(phrases: Phrases | Sequence[Phrases], texts: Sequence[str]) -> list[Phrases]:
    """The phrases of each text, from what was asked of all or of each.

    Raises:
        ValueError: A phrase is not in its text, or there are not as many lists as texts.
    """
    if phrases in KEYWORDS or all(_is_phrase(phrase) for phrase in phrases):
        each = [cast(Phrases, phrases)] * len(texts)
    else:
        each = list(cast(Sequence[Phrases], phrases))
    if len(each) != len(texts):
        raise ValueError(
            f"Expected phrases for all pairs or a list for each of {len(texts)} but got {len(each)} lists. "
            "Remedy: one list of phrases for each pair."
        )
    for asked, text in zip(each, texts, strict=True):
        if asked not in KEYWORDS:
            find_spans(text, asked)
    return each


def _is_phrase(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(character, int) for character in value)
    return isinstance(value, str) and value not in KEYWORDS


def foil_modality(against: ImageSource) -> Modality:
    """A string is a caption, anything else a picture."""
    return "text" if isinstance(against, str) else "image"


def foils_of_each(against: ImageLike | Sequence[ImageLike], count: int) -> list[ImageLike]:
    """A foil for each pair, from one for all or one for each.

    Raises:
        ValueError: There are not as many as pairs, some are captions and some pictures, or one cannot be read.
    """
    foils = list(against) if isinstance(against, list | tuple) else [cast(ImageLike, against)] * count
    if len(foils) != count or len({isinstance(foil, str) for foil in foils}) > 1:
        raise ValueError(
            f"Expected a foil for all pairs or one for each of {count}, all captions or all pictures, but got "
            f"{len(foils)}. Remedy: strings for captions, paths or pictures for pictures."
        )
    for foil in foils:
        if isinstance(foil, str) and not foil.strip():
            raise ValueError("Expected a caption to explain against but got an empty text. Remedy: write one.")
        if not isinstance(foil, str):
            check_image(foil)
    return foils


def strongest_phrases(a: Attribution) -> list[Span]:
    """The words that carry more of the text map than the mean word, neighbours joined, as (start, end) characters.

    Of a text of one word, that word.

    Raises:
        ValueError: The text was not explained.
    """
    words = a.word_spans()
    mean = sum(value for _, _, value in words) / max(1, len(words))
    strong = [(value > mean or len(words) == 1, start, end) for start, end, value in words]
    runs = [list(run) for is_strong, run in groupby(strong, key=lambda word: word[0]) if is_strong]
    return [(run[0][1], run[-1][2]) for run in runs]


def region_pixels(region: RegionLike, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, a region of a picture of (width, height).

    Raises:
        ValueError: It holds no pixel of the picture, or is a mask of another size.
    """
    if not isinstance(region, np.ndarray):
        return box_region(region, size)
    if region.shape != (size[1], size[0]) or not region.any():
        raise ValueError(
            f"Expected a mask of shape {(size[1], size[0])} with a pixel in it but got {region.shape} with "
            f"{int(region.astype(bool).sum())}. Remedy: one value for each pixel of the picture."
        )
    return region.astype(bool)


def around(region: np.ndarray) -> Box:
    """The box around a region, in fractions."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    height, width = region.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )
