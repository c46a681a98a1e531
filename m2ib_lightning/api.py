"""Explaining pairs from Python."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.calibration import Calibration
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.contracts import without_frames
from m2ib_lightning.data.asked import KEYWORDS
from m2ib_lightning.data.images import ImageLike
from m2ib_lightning.data.pairs import check_all, make_references, read_pair
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.names import meant, parameters, subclasses
from m2ib_lightning.parts import find_spans
from m2ib_lightning.phrases import Phrases, RegionLike, foils_of_each, phrases_of_each
from m2ib_lightning.types import Asked

IMAGES: tuple[Any, ...] = get_args(ImageLike)


@without_frames
def explain(
    images: ImageLike | Sequence[ImageLike],
    texts: str | Sequence[str],
    backbone: str | Backbone = "embedded",
    method: str | type[AttributionMethod] = "m2ib",
    batch_size: int = 8,
    phrases: Phrases | Sequence[Phrases] | None = None,
    against: ImageLike | Sequence[ImageLike] | None = None,
    regions: Sequence[RegionLike] | None = None,
    calibration: str | Path | None = None,
    **arguments: Any,
) -> list[Attribution]:
    """Explain what makes each image and its text similar to a model.

    Args:
        images: Pictures or paths; a single one goes with every text.
        texts: The captions, one for each picture; a single one goes with every image.
        backbone: A loaded model, or what `load_backbone` takes.
        method: A method's name in lower or upper case, or its class.
        batch_size: Pairs computed at once; changes the speed and nothing else.
        phrases: What to find in the pictures, for `Attribution.phrases`: words of the texts or their (start, end)
            characters, for all pairs or a list for each; "auto", the words that carry most of a text; or "words".
        against: Instead of the pair's similarity, explain why this text and not that one, or this picture and not that
            one: a foil for all pairs, or one for each. A string is a caption; a `Path` or a picture is a picture.
        regions: What to find words for, for `Attribution.regions`: boxes (left, top, right, bottom) in pixels, or
            masks (H, W), of every picture.
        calibration: A folder that `m2ib calibrate` or `Calibration.save` wrote for this model: M2IB's layers, betas and
            priors, unless `arguments` say others or, in the place of betas, `keep`.
        arguments: The method's own: modalities, and for M2IB image_layer, text_layer, image_beta, text_beta, steps,
            noise_samples, prior, read_out, seed, ...

    Returns:
        One result per pair, in order.

    Raises:
        ValueError: An argument or an input is not usable; said before anything is computed.
        TypeError: An argument is of another kind, or the method takes none of that name.

    Example:
        >>> from m2ib_lightning.data.scenes import make_scene
        >>> scene = make_scene(7, objects=("cat", "key"))
        >>> result = explain(scene.image, "a cat")[0]
        >>> max(result.words(), key=lambda word: word[1])[0]
        'cat'
    """
    check_at_least("batch_size", batch_size, 1)
    _check_kinds(images, texts, backbone)
    kind = _method(method)
    if calibration is not None:
        made = Calibration.arguments(calibration)
        arguments = {n: v for n, v in made.items() if "keep" not in arguments or not n.endswith("_beta")} | arguments
    _check_arguments(kind, arguments)
    references = make_references(images, texts)
    check_all(references)
    count = len(references)
    each = [None] * count if phrases is None else phrases_of_each(phrases, [reference.text for reference in references])
    foils = [None] * count if against is None else foils_of_each(against, count)
    asked = [
        Asked(which if which in (None, *KEYWORDS) else find_spans(reference.text, which), foil, regions or ())
        for reference, which, foil in zip(references, each, foils, strict=True)
    ]
    explainer = kind(backbone=backbone, **arguments)
    model = explainer.prepare()
    results: list[Attribution] = []
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        pairs = [
            read_pair(reference)._replace(asked=a) for reference, a in zip(references[part], asked[part], strict=True)
        ]
        results += explainer.explain(model.preprocess_pairs(pairs))
    return results


def _check_kinds(images: object, texts: object, backbone: object) -> None:
    """Refuse what is no picture, no text or no model, where a message of Python's own would follow."""
    pictures, captions = _as_list(images, IMAGES), _as_list(texts, str)
    for name, found, kind, wanted in (
        ("images", pictures, IMAGES, "a picture or a path, or a list of these"),
        ("texts", captions, str, "a text or a list of texts"),
    ):
        wrong = [value for value in found if not isinstance(value, kind)]
        if wrong:
            raise TypeError(
                f"Expected `{name}` to be {wanted} but got {type(wrong[0]).__name__}. "
                f"Remedy: pass one for each pair, or a single one for all."
            )
    if not isinstance(backbone, str | Path | Backbone):
        raise TypeError(
            f"Expected `backbone` to be a name or what `load_backbone` gives but got {type(backbone).__name__}. "
            "Remedy: a class of your own extends `Backbone`."
        )


def _as_list(given: object, kind: Any) -> list[object]:
    return list(given) if isinstance(given, Sequence) and not isinstance(given, kind) else [given]


def _check_arguments(kind: type[AttributionMethod], arguments: dict[str, Any]) -> None:
    """Refuse what the method does not take, with the name that was meant."""
    known = [name for name in parameters(kind) if name != "backbone"]
    for name in arguments:
        if name not in known:
            otherwise = f"{kind.__name__} takes {', '.join(known)}."
            raise TypeError(
                f"Expected an argument of {kind.__name__} but got `{name}`. Remedy: {meant(name, known, otherwise)}"
            )


def _method(name: str | type[AttributionMethod]) -> type[AttributionMethod]:
    """The class of a method by its name, in any case, or a class that can be made."""
    known = {key.lower(): value for key, value in subclasses(AttributionMethod).items()}
    if not isinstance(name, str):
        if not (isinstance(name, type) and issubclass(name, AttributionMethod)):
            raise TypeError(
                f"Expected `method` to be a name or a class below AttributionMethod but got {type(name).__name__}. "
                "Remedy: pass the class itself, and its arguments to `explain`."
            )
        if inspect.isabstract(name):
            raise TypeError(
                f"Expected `method` to be a class that explains but got {name.__name__} without "
                f"{', '.join(sorted(name.__abstractmethods__))}. Remedy: write it, or choose one of "
                f"{', '.join(sorted(known))}."
            )
        return name
    if name.lower() not in known:
        raise ValueError(
            f"Expected `method` to be one of {', '.join(sorted(known))} but got {name!r}. "
            f"Remedy: {meant(name, known, 'choose one of those, or pass a class of your own.')}"
        )
    return known[name.lower()]
