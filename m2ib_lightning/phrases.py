"""Which words with which regions: a map for each phrase of a text, and words for each region of a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, cast

import numpy as np
import torch
from einops import rearrange

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.data.images import ImageLike, check_image
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.parts import Phrase, Region
from m2ib_lightning.targets import Difference, Span, Target, WithoutPhrase, WithoutRegion, box_region, effects
from m2ib_lightning.types import Box, Modality, PairBatch

Phrases = Sequence[str | Span] | Literal["auto"]
"""Phrases of a text, by themselves or by their characters; or "auto", the words that carry most of it."""

RegionLike = Box | np.ndarray
"""A box (left, top, right, bottom) in pixels of the picture, or its pixels as (H, W) bool."""


def explain_parts(
    method: AttributionMethod,
    batch: PairBatch,
    phrases: Sequence[Phrases] | None = None,
    target: Target | None = None,
    regions: Sequence[RegionLike] | None = None,
) -> list[Attribution]:
    """Explain a batch of pairs, and then the parts of each.

    Args:
        method: Any.
        batch: The pairs.
        phrases: Of each pair.
        target: That the whole pairs are explained against; the other modality by default.
        regions: Of every picture.

    Raises:
        ValueError: A phrase is not in its text, a region not in its picture, or the method does not explain them.
    """
    pixels = [[region_pixels(region, pair.image.size) for region in regions or ()] for pair in batch.pairs]
    results = method.attribute(target.aim(method.prepare(), batch) if target else batch)
    if phrases:
        asked = zip(results, phrases, strict=True)
        spans = [strongest_phrases(a) if which == "auto" else find_spans(a.text, which) for a, which in asked]
        for a, found in zip(results, explain_phrases(method, batch, spans), strict=True):
            a.phrases = found
    if regions:
        for a, words in zip(results, explain_regions(method, batch, pixels), strict=True):
            a.regions = words
    return results


def explain_phrases(method: AttributionMethod, batch: PairBatch, spans: Sequence[Sequence[Span]]) -> list[list[Phrase]]:
    """Where in its picture each phrase of each text is.

    All phrases of all pairs are explained side by side, in one batch.

    Args:
        method: Any.
        batch: The pairs.
        spans: Of each pair the (start, end) characters of its phrases.

    Raises:
        ValueError: The method does not explain images.
    """
    rows = [row for row, of_pair in enumerate(spans) for _ in of_pair]
    flat = [span for of_pair in spans for span in of_pair]
    found, sizes = _explain_parts(method, batch, rows, WithoutPhrase(flat), "image")
    lost = np.full((1, 1), np.nan, dtype=np.float32)  # of a fit that came to no finite loss
    results: list[list[Phrase]] = [[] for _ in spans]
    for row, (start, end), a, effect in zip(rows, flat, found, sizes, strict=True):
        values = lost if a.image_map is None else a.image_map
        results[row].append(Phrase(batch.pairs[row].text[start:end], (start, end), effect, values))
    return results


def explain_regions(
    method: AttributionMethod, batch: PairBatch, regions: Sequence[Sequence[np.ndarray]]
) -> list[list[Region]]:
    """Which words speak about each region of each picture; side by side, as `explain_phrases` does.

    Args:
        method: Any.
        batch: The pairs.
        regions: Of each pair its regions, (H, W) bool in the pixels of its picture.

    Raises:
        ValueError: The method does not explain texts.
    """
    rows = [row for row, of_pair in enumerate(regions) for _ in of_pair]
    flat = [region for of_pair in regions for region in of_pair]
    found, sizes = _explain_parts(method, batch, rows, WithoutRegion(flat), "text")
    results: list[list[Region]] = [[] for _ in regions]
    for row, region, a, effect in zip(rows, flat, found, sizes, strict=True):
        values = np.full(len(a.tokens), np.nan, dtype=np.float32) if a.text_map is None else a.text_map
        results[row].append(Region(_around(region), effect, values))
    return results


def _explain_parts(
    method: AttributionMethod, batch: PairBatch, rows: list[int], target: Difference, modality: Modality
) -> tuple[list[Attribution], list[float]]:
    """The results of these rows of a batch against a target, and the effect of each."""
    if modality not in method.modalities:
        raise ValueError(
            f"Expected a method that explains the {modality} but got modalities={list(method.modalities)}. "
            f"Remedy: name {modality!r} in `modalities`."
        )
    if not rows:
        return [], []
    backbone, many = method.prepare(), batch.keep(rows)
    directions = target.directions(backbone, many)
    sizes = effects(backbone, many, directions)
    # What lowers the similarity is looked for where it does so.
    sign = rearrange(torch.where(sizes < 0, -1.0, 1.0), "b -> b 1")
    aimed = many._replace(targets={m: sign * direction for m, direction in directions.items()})
    return method.attribute(aimed), sizes.tolist()


def phrases_of_each(phrases: Phrases | Sequence[Phrases], texts: Sequence[str]) -> list[Phrases]:
    """The phrases of each text, from what was asked of all or of each.

    Raises:
        ValueError: A phrase is not in its text, or there are not as many lists as texts.
    """
    if phrases == "auto" or all(_is_phrase(phrase) for phrase in phrases):
        each = [cast(Phrases, phrases)] * len(texts)
    else:
        each = list(cast(Sequence[Phrases], phrases))
    if len(each) != len(texts):
        raise ValueError(
            f"Expected phrases for all pairs or a list for each of {len(texts)} but got {len(each)} lists. "
            "Remedy: one list of phrases for each pair."
        )
    for asked, text in zip(each, texts, strict=True):
        if asked != "auto":
            find_spans(text, asked)
    return each


def _is_phrase(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(character, int) for character in value)
    return isinstance(value, str) and value != "auto"


def foil_modality(against: ImageLike | Sequence[ImageLike]) -> Modality:
    """A string is a caption, anything else a picture."""
    one = against[0] if isinstance(against, list | tuple) else against
    return "text" if isinstance(one, str) else "image"


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


def find_spans(text: str, phrases: Sequence[str | Span]) -> list[Span]:
    """The (start, end) characters of phrases in a text; of a phrase that is there several times, the first.

    >>> find_spans("a red crab and a tree", ["red crab", (17, 21)])
    [(2, 10), (17, 21)]

    Raises:
        ValueError: A phrase is not in the text, or characters are not.
    """
    return [_find(text, phrase) for phrase in phrases]


def _find(text: str, phrase: str | Span) -> Span:
    if isinstance(phrase, str):
        found = re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", text, re.IGNORECASE) if phrase.strip() else None
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


def strongest_phrases(a: Attribution) -> list[Span]:
    """The words that carry more of the text map than the mean word, neighbours joined, as (start, end) characters.

    Raises:
        ValueError: The text was not explained.
    """
    words = a.word_spans()
    mean = sum(value for _, _, value in words) / max(1, len(words))
    strong = [(value > mean, start, end) for start, end, value in words]
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


def _around(region: np.ndarray) -> Box:
    """The box around a region, in fractions."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    height, width = region.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )
