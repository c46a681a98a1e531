"""The result of explaining one pair."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from m2ib_lightning.checks import check_choice
from m2ib_lightning.display import DOUBTFUL, HEAT, attribution_html, blend, scale_top
from m2ib_lightning.parts import Phrase, Region
from m2ib_lightning.types import MODALITIES, Box, Modality
from m2ib_lightning.verdict import SHORTER, VERDICTS, Verdict, headline, is_difference, is_doubtful, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

MapStyle = Literal["smooth", "patch"]
"""How a map is drawn: interpolated, or each patch with its own value."""

# Bilinear interpolation draws every patch as a star: its level lines are hyperbolas.
RESAMPLING = {"smooth": Image.Resampling.BICUBIC, "patch": Image.Resampling.NEAREST}


@dataclass(eq=False, repr=False)
class Attribution:
    """What the image and the text of one pair contribute to their similarity.

    Attributes:
        id: The name of the pair.
        text: The caption, as given.
        source: The image's path, "" if it was given in memory.
        image_map: (gh, gw) float32 in `unit`, or None if the image was not explained. Never normalised.
        text_map: (L,) float32 in `unit`, one value a token, or None if the text was not explained.
        tokens: L token strings, padding left out.
        special: (L,) bool, the tokens that are no part of the text (BOS, EOS).
        spans: L (start, end) characters of `text`, (0, 0) for special tokens.
        score: Cosine similarity of the clean pair, in -1..1.
        image_score: Cosine similarity with the image read through its bottleneck, nan if there is none.
        text_score: Cosine similarity with the text read through its bottleneck, nan if there is none.
        unit: The unit of the maps: "nats" for M2IB, the method's own otherwise.
        image_match: How many standard deviations `score` stands above the similarities of this image with captions
            of other pictures, nan if that was not measured.
        text_match: How many it stands above the similarities of this text with other pictures, nan likewise.
        view: What the model saw of the image, as a box in fractions of its width and height.
        truncated: Whether the text was cut at the model's token limit.
        settings: What it was made with: method, backbone, layers, betas, steps, samples, prior, seed, ...
        history: Per-step values, (steps,) float32 each, by name ("loss/total", "image/relevance", ...).
        steps: How many optimisation steps were made.
        stop_reason: Why the fit ended: "max_steps", "converged", ... or "" where nothing is fitted.
        phrases: Where in the image phrases of the text are, as far as that was asked for.
        regions: Which words speak about regions of the image, the same.
        metrics: What it was scored with, by name ("image/PointingGame"), nan where one has no value for the pair.
    """

    id: str
    text: str
    image_map: NDArray[np.float32] | None
    text_map: NDArray[np.float32] | None
    tokens: list[str]
    special: NDArray[np.bool_]
    spans: list[tuple[int, int]]
    score: float
    source: str = ""
    image_score: float = float("nan")
    text_score: float = float("nan")
    unit: str = "nats"
    view: Box = WHOLE
    truncated: bool = False
    image_match: float = float("nan")
    text_match: float = float("nan")
    settings: dict[str, Any] = field(default_factory=dict)
    history: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    steps: int = 0
    stop_reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    phrases: list[Phrase] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)

    def __repr__(self) -> str:
        """One line: the pair, its similarities, where and at which word its evidence is, how it ended, the verdict."""
        through = [f"{score:.2f}" for score in (self.image_score, self.text_score) if score == score]
        parts = [f"similarity {self.score:.2f}" + f" -> {' / '.join(through)}" * bool(through)]
        if self.image_map is not None:
            parts.append(f"{' x '.join(map(str, self.image_map.shape))} patches up to {self.image_map.max():.3g}")
        if self.text_map is not None:
            words = max(self.words(), key=lambda word: word[1], default=("", 0.0))
            parts.append(f"{len(self.tokens)} tokens, most in {words[0]!r} with {words[1]:.3g}")
        ended = f", {self.steps} steps ({self.stop_reason})" * (self.steps > 0)
        return f"Attribution({self.id!r}, {self.text!r}: {', '.join(parts)} {self.unit}{ended}; {headline(self)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the map over the picture, if that can be read, and the words with their values."""
        return attribution_html(self)

    def heatmap(self, size: tuple[int, int], style: MapStyle = "smooth") -> NDArray[np.float32]:
        """(H, W) float32 in [0, 1], the image map over the whole picture, for display.

        What the model did not see is 0. Negative values, which some methods give, are shown as 0, and the largest
        value as 1.

        Args:
            size: The (height, width) in pixels.
            style: "smooth" interpolates the patches bicubically over what the model saw, with each patch's own value
                at its centre; "patch" fills each patch with its value.

        Raises:
            ValueError: The image was not explained, or the size is not positive.
        """
        values = self._explained("image").clip(min=0)
        if min(size) < 1:
            raise ValueError(f"Expected a size of at least 1 x 1 pixels but got {size}. Remedy: (height, width).")
        top = float(values.max())
        return spread((values / (top if top > 0 else 1)).astype(np.float32), self.view, size, style)

    def overlay(self, image: Image.Image, opacity: float = 0.9, style: MapStyle = "smooth") -> Image.Image:
        """The picture, dimmed, with its heat map over it; RGB and of the same size.

        The last colour stands for `image_top`. A map that should not be believed, as `verdicts` has it, is drawn in
        greys.

        Args:
            image: The picture that was explained, or one of the same proportions.
            opacity: How much the heat covers where it is highest, in 0..1; where it is 0 the picture is seen.
            style: "smooth" or "patch", as in `heatmap`.

        Raises:
            ValueError: The image was not explained.
        """
        heat = self.heatmap((image.height, image.width), style)
        top = max(0.0, float(self._explained("image").max()))
        share = top / self.image_top if top > 0 else 0.0
        colour = np.asarray(image.convert("RGB"), np.float32) / 255
        grey = np.asarray(image.convert("L").convert("RGB"), np.float32) / 255
        # Colours of the picture would be read as heat: most of them go.
        dimmed = np.asarray(0.6 * (0.75 * grey + 0.25 * colour), np.float32)
        return blend(dimmed, share * heat, DOUBTFUL if is_doubtful(self, "image") else HEAT, opacity)

    @property
    def title(self) -> str:
        """The text, and the foil that it was explained against if there was one."""
        foil = self.settings.get("against")
        return f"{self.text}, rather than {foil}" if foil else self.text

    @property
    def image_top(self) -> float:
        """What the last colour of the image's map stands for: its highest value, of nats at least `NATS_FLOOR`.

        Against a foil a fifth of that is enough, as for its verdict: a difference of two captions is shorter.

        Raises:
            ValueError: The image was not explained.
        """
        times = 1 / SHORTER if is_difference(self, "image") else 1.0
        return scale_top(float(self._explained("image").max()), self.unit, times)

    @property
    def verdicts(self) -> dict[Modality, Verdict]:
        """Whether each map that was asked for can be believed: "ok", or the first reason why not. See `verdict.py`."""
        asked = self.settings.get("modalities") or [m for m in MODALITIES if self.map_of(m) is not None] or MODALITIES
        return {modality: judge(self, modality) for modality in asked}

    @property
    def verdict(self) -> Verdict:
        """The word "ok" if all maps can be believed, else the first reason of `verdict.VERDICTS` that holds in one."""
        found = self.verdicts.values()
        return next((reason for reason in VERDICTS[1:] if reason in found), "ok")

    def words(self, values: NDArray[np.float32] | None = None) -> list[tuple[str, float]]:
        """The words of the text with the sum of their tokens' values, in the text's order, special tokens left out.

        Tokens belong to one word when they share a character (byte-level tokens do), or when their characters touch
        and are letters or digits; every ideograph is a word of its own.

        Args:
            values: (L,) of the tokens, such as a region's `text_map`; the text map by default.

        Raises:
            ValueError: The text was not explained.
        """
        return [(self.text[start:end], value) for start, end, value in self.word_spans(values)]

    def word_spans(self, values: NDArray[np.float32] | None = None) -> list[tuple[int, int, float]]:
        """The same with the (start, end) characters of each word instead of itself."""
        values = self._explained("text") if values is None else values
        words: list[tuple[int, int, float]] = []
        for (start, end), special, value in zip(self.spans, self.special, values, strict=True):
            if special:
                continue
            if words and (
                start < words[-1][1] or (start == words[-1][1] and _joined(self.text[start - 1 : start + 1]))
            ):
                first, last, total = words[-1]
                words[-1] = (first, max(last, end), total + float(value))
            else:
                words.append((start, end, float(value)))
        return words

    def word_patch_matrix(self) -> tuple[list[str], NDArray[np.float32]]:
        """Which word means which patch: the phrases, and their maps as (P, gh, gw) in `unit`.

        The maps of phrases that speak against the pair are negative. Asked for with `phrases="words"`, the phrases are
        all words of the text.

        Raises:
            ValueError: No phrase was asked for.
        """
        if not self.phrases:
            raise ValueError('Expected maps of phrases but none was asked for. Remedy: explain(..., phrases="words").')
        maps = [-phrase.image_map if phrase.against else phrase.image_map for phrase in self.phrases]
        return [phrase.text for phrase in self.phrases], np.stack(maps)

    def map_of(self, modality: Modality) -> NDArray[np.float32] | None:
        """The raw map of a modality, (gh, gw) or (L,), or None if that was not explained."""
        return self.image_map if modality == "image" else self.text_map

    def content_of(self, modality: Modality) -> NDArray[np.float32]:
        """The raw values of the patches, or of the tokens that are not special, (n,).

        Raises:
            ValueError: The modality was not explained.
        """
        values = self._explained(modality)
        return values.ravel() if modality == "image" else values[~self.special]

    def score_through(self, modality: Modality) -> float:
        """Cosine similarity with that input read through its bottleneck, `image_score` or `text_score`."""
        return self.image_score if modality == "image" else self.text_score

    def strongest_region(self) -> tuple[float, float]:
        """(x, y) of the centre of the cell with the highest value, in fractions of the picture's width and height."""
        values = self._explained("image")
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        left, top, right, bottom = self.view
        return (
            left + (column + 0.5) / values.shape[1] * (right - left),
            top + (row + 0.5) / values.shape[0] * (bottom - top),
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one `.npz` file."""
        arrays = {
            name: value for name in ("image_map", "text_map", "special") if (value := getattr(self, name)) is not None
        }
        arrays |= {f"history/{name}": values for name, values in self.history.items()}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*_ARRAYS, *_PARTS, "history")}
        rest |= {name: [part.as_dict() for part in getattr(self, name)] for name in _PARTS}
        with Path(path).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, json=np.array(json.dumps(rest)))

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            rest: dict[str, Any] = json.loads(str(saved["json"]))
            rest["spans"] = [tuple(span) for span in rest["spans"]]
            rest["view"] = tuple(rest["view"])
            rest |= {name: [kind.from_dict(part) for part in rest.get(name, [])] for name, kind in _PARTS.items()}
            history = {n.removeprefix("history/"): saved[n] for n in saved.files if n.startswith("history/")}
            rest |= {name: saved[name] if name in saved.files else None for name in _ARRAYS}
        return cls(**rest, history=history)

    def _explained(self, modality: Modality) -> NDArray[np.float32]:
        values = self.map_of(modality)
        if values is None:
            raise ValueError(
                f"Expected {modality} values but only the other modality was explained. "
                f"Remedy: name {modality!r} in `modalities`."
            )
        return values


def spread(
    values: NDArray[np.float32], view: Box, size: tuple[int, int], style: MapStyle = "smooth"
) -> NDArray[np.float32]:
    """(H, W) float32 in [0, 1]: the patches of a map spread over what the model saw, 0 elsewhere.

    Args:
        values: (gh, gw) in [0, 1].
        view: What the model saw, as a box in fractions of the picture.
        size: The (height, width) in pixels.
        style: "smooth" or "patch", as in `Attribution.heatmap`.

    Raises:
        ValueError: There is no such style.
    """
    check_choice("style", style, tuple(RESAMPLING))
    height, width = size
    left, upper, right, lower = view
    box = (round(left * width), round(upper * height), round(right * width), round(lower * height))
    seen = (max(1, box[2] - box[0]), max(1, box[3] - box[1]))
    whole = Image.new("F", (width, height), 0.0)
    whole.paste(Image.fromarray(values).resize(seen, RESAMPLING[style]), box[:2])
    return np.asarray(whole, dtype=np.float32).clip(0, 1)


def _joined(neighbours: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return neighbours.isalnum() and not any(unicodedata.name(c, "").startswith("CJK") for c in neighbours)


_ARRAYS = ("image_map", "text_map", "special")
_PARTS: dict[str, type[Phrase] | type[Region]] = {"phrases": Phrase, "regions": Region}
