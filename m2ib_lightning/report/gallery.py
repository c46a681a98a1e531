"""Attributions as one HTML file to look through: filter and sort the pairs, click one for its maps, words and curves.

From the command line: m2ib gallery OUTPUT
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.data import make_scene
from m2ib_lightning.data.images import load_image
from m2ib_lightning.display import HEAT, Chip, chips, colours, on_no_word
from m2ib_lightning.files import replacing
from m2ib_lightning.inline import bytes_text, number, small_address
from m2ib_lightning.report.phrases import phrase_colours
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.types import BadPair
from m2ib_lightning.verdict import SENTENCES, headline, is_doubtful

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 192
"""The longer side of the pictures in the file, in pixels."""

FRAME = 500
"""The same of the pictures of masks."""

QUALITY = 60
"""Of WebP: enough for pictures of this size."""

FindImage = Callable[[Attribution], Image.Image | None]
"""Gives the picture of a pair, or None if there is none."""


class Gallery(NamedTuple):
    """What a gallery that was written shows.

    Attributes:
        path: The file that is written.
        pairs: How many pairs it shows.
        pictures: How many of them with their picture; the others show the map alone.
    """

    path: Path
    pairs: int
    pictures: int


def save_gallery(
    attributions: Iterable[Attribution | BadPair],
    path: str | Path,
    find_image: FindImage | None = None,
    frames: Mapping[str, Sequence[Path]] | None = None,
) -> Gallery:
    """Write one HTML file that needs nothing beside it: no server, no other file, no network.

    It lists the pairs with the verdict on each, filtered by that and by what is in their texts and ids, and sorted by
    similarity, by drop (the similarity minus the lowest that is left through a bottleneck), by disagreement (how far
    the similarities through the two bottlenecks lie apart), or by any metric where pairs were scored. A click shows a
    pair's map over the picture, its words, scores, the curves of its fit and, where there are pictures of them, its
    masks step by step. Maps are kept to 1/255 of their range and pictures at `SIDE` pixels; a map that should not be
    believed is drawn in greys.

    Args:
        attributions: A store, or a choice of its attributions; bad pairs among them show their reason.
        path: The file that is written.
        find_image: Finds the picture of a result; by default it is read from `Attribution.source`, and left out where
            it is not there.
        frames: Pictures of the masks, step by step, by the pair's id.
    """
    find_image, frames = find_image or from_source, frames or {}
    settings: dict[str, int] = {}
    pairs = [
        _bad_pair(a) if isinstance(a, BadPair) else _pair(a, find_image(a), frames.get(a.id, ()), settings)
        for a in attributions
    ]
    data = {
        "colours": bytes_text(255 * colours(HEAT)),
        "sentences": SENTENCES,
        "settings": [json.loads(text) for text in settings],
        "pairs": pairs,
    }
    # A text that holds "</script>" must not end the script.
    held = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    folder = resources.files("m2ib_lightning") / "report"
    page = (folder / "gallery.html").read_text("utf-8")
    before, between, after = page.replace("/*SCRIPT*/", "/*DATA*/").split("/*DATA*/")
    script = "".join((folder / name).read_text("utf-8") for name in ("gallery.js", "phrases.js"))
    with replacing(Path(path)) as unfinished:
        unfinished.write_text(before + held + between + script + after, "utf-8")
    return Gallery(Path(path), len(pairs), sum(pair["picture"] is not None for pair in pairs))


def save_run_gallery(output: str | Path, path: str | Path | None = None, order: Sequence[str] = ()) -> Gallery:
    """Write the gallery of what `m2ib fit`, `predict` or `test` left in its output folder.

    Pictures come from where the pairs were read, or are composed again for scenes; the masks step by step from
    `masks`, where `MaskLogger` left them.

    Args:
        output: The folder; one with Parquet parts alone will do.
        path: The file; `gallery.html` in the folder by default.
        order: Ids in the order in which the pairs are listed; what is not among them comes after them.

    Raises:
        ValueError: There are no attributions.
    """
    output = Path(output)
    store = AttributionStore(output / "attributions" if (output / "attributions").is_dir() else output)
    if not store.parts:
        raise ValueError(f"Expected attributions in {output} but there are none. Remedy: name a folder of `m2ib` runs.")
    watched = [folder for folder in (output / "masks").glob("*") if folder.is_dir()]
    frames = {folder.name: sorted(folder.glob("step-*.png")) for folder in watched}
    places = {id: place for place, id in enumerate(order)}
    pairs = sorted([*store, *store.errors()], key=lambda pair: places.get(pair.id, len(places)))
    return save_gallery(pairs, path or output / "gallery.html", _finder(output / "config.yaml"), frames)


def from_source(attribution: Attribution) -> Image.Image | None:
    """The picture in the file that the attribution names, None if there is none or it cannot be read."""
    try:
        return load_image(attribution.source) if attribution.source else None
    except ValueError:
        return None


def _finder(config: Path) -> FindImage:
    """Reads pictures from their files and, where a run's configuration says how, composes scenes again."""
    data = yaml.safe_load(config.read_text("utf-8")).get("data", {}) if config.is_file() else {}
    scene = {name: data[f"scene_{name}"] for name in ("objects", "named", "kind") if f"scene_{name}" in data}

    def find(a: Attribution) -> Image.Image | None:
        if scene and not a.source and a.id.startswith("scene-"):
            return make_scene(int(a.id.removeprefix("scene-")), **scene).image
        return from_source(a)

    return find


def _bad_pair(pair: BadPair) -> dict[str, Any]:
    """What the page keeps of a pair that could not be explained."""
    nothing: dict[str, Any] = dict.fromkeys(("score", "imageScore", "textScore", "map", "words", "picture", "settings"))
    empty: dict[str, Any] = {"metrics": {}, "history": {}, "special": "", "frames": [], "end": "", "truncated": False}
    empty |= {"verdict": "bad", "headline": "", "doubtful": []}
    said = {"id": pair.id, "source": pair.source, "text": pair.text, "title": pair.text, "error": pair.error}
    return nothing | empty | said


def _pair(
    a: Attribution, image: Image.Image | None, frames: Sequence[Path], settings: dict[str, int]
) -> dict[str, Any]:
    """What the page keeps of a pair; `settings` numbers those that occur."""
    return {
        "id": a.id,
        "source": a.source,
        "text": a.text,
        "title": a.title,
        "score": number(a.score),
        "imageScore": number(a.image_score),
        "textScore": number(a.text_score),
        "map": None if a.image_map is None else _map(a.image_map, a.image_top),
        "view": [round(edge, 4) for edge in a.view],
        "verdict": a.verdict,
        "headline": headline(a),
        "doubtful": [modality for modality in a.verdicts if is_doubtful(a, modality)],
        "unit": a.unit,
        "words": None if a.text_map is None else _words(a),
        "special": on_no_word(a),
        "truncated": a.truncated,
        "history": {name: [number(value) for value in values.tolist()] for name, values in a.history.items()},
        "end": f"{a.steps} step{'s' * (a.steps != 1)}, {a.stop_reason.replace('_', ' ')}" if a.steps else "",
        "metrics": {name: number(value) for name, value in a.metrics.items()},
        "settings": settings.setdefault(json.dumps(a.settings, sort_keys=True), len(settings)),
        "picture": None if image is None else small_address(image, SIDE, QUALITY),
        "phrases": _phrases(a),
        "frames": [small_address(Image.open(frame), FRAME, QUALITY) for frame in frames],
    }


def _map(values: NDArray[np.float32], top: float = 0.0) -> dict[str, Any]:
    """Cells as bytes, 0 for the lowest value and 255 for the highest; the last colour is at `top` or the highest."""
    low, high = float(values.min()), float(values.max())
    cells = (values - low) * (255 / (high - low) if high > low else 0)
    kept = {"rows": values.shape[0], "low": number(low), "high": number(high), "top": number(max(top, high))}
    return kept | {"cells": bytes_text(cells)}


def _phrases(a: Attribution) -> list[dict[str, Any]]:
    """Each phrase with its colour and map."""
    return [
        {
            "text": phrase.text,
            "span": list(phrase.span),
            "effect": number(phrase.effect),
            "verdict": phrase.verdict,
            "colour": colour,
            "map": _map(np.nan_to_num(phrase.image_map)),
        }
        for phrase, colour in zip(a.phrases, phrase_colours(a.phrases), strict=True)
    ]


def _words(a: Attribution) -> list[Chip]:
    """The words with their shades to three digits."""
    return [chip._replace(shade=round(chip.shade, 3)) for chip in chips(a.words(), a.unit)]
