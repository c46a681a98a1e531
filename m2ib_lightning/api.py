"""Explaining pairs from Python."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from m2ib_lightning import methods
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data.images import ImageLike
from m2ib_lightning.data.pairs import check_all, make_references, read_pair
from m2ib_lightning.methods import AttributionMethod


def explain(
    images: ImageLike | Sequence[ImageLike],
    texts: str | Sequence[str],
    backbone: str | Backbone = "embedded",
    method: str | type[AttributionMethod] = "m2ib",
    batch_size: int = 8,
    **arguments: Any,
) -> list[Attribution]:
    """Explain what makes each image and its text similar to a model.

    Args:
        images: Pictures or paths; a single one goes with every text.
        texts: As many texts; a single one goes with every image.
        backbone: A loaded model, or what `load_backbone` takes.
        method: A method's name in lower or upper case, or its class.
        batch_size: Pairs computed at once; changes the speed and nothing else.
        arguments: Of the method: seed, modalities, and for M2IB image_layer, text_layer, image_beta, text_beta, steps,
            noise_samples, prior, read_out, ...

    Returns:
        One result per pair, in order.

    Raises:
        ValueError: An argument or an input is not usable; said before anything is computed.

    Example:
        >>> from m2ib_lightning.data.scenes import make_scene
        >>> scene = make_scene(7, objects=("cat", "key"))
        >>> result = explain(scene.image, "a cat")[0]
        >>> max(result.words(), key=lambda word: word[1])[0]
        'cat'
    """
    if batch_size < 1:
        raise ValueError(f"Expected `batch_size` to be at least 1 but got {batch_size}. Remedy: choose a larger one.")
    references = make_references(images, texts)
    check_all(references)
    explainer = _method(method)(backbone=backbone, **arguments)
    model = explainer.prepare()
    results: list[Attribution] = []
    for start in range(0, len(references), batch_size):
        pairs = [read_pair(reference) for reference in references[start : start + batch_size]]
        results += explainer.attribute(model.preprocess_pairs(pairs))
    return results


def _method(name: str | type[AttributionMethod]) -> type[AttributionMethod]:
    """The class of a method of this package by its name, in any case."""
    if not isinstance(name, str):
        return name
    known = {
        key.lower(): value
        for key, value in vars(methods).items()
        if isinstance(value, type) and issubclass(value, AttributionMethod) and not inspect.isabstract(value)
    }
    if name.lower() not in known:
        raise ValueError(
            f"Expected `method` to be one of {', '.join(sorted(known))} but got {name!r}. "
            "Remedy: choose one of those, or pass a class of your own."
        )
    return known[name.lower()]
