#!/usr/bin/env python
"""Measure where methods find phrases, on composed scenes that say which pixels are meant.

    python scripts/measure_phrases.py --methods M2IB GradECLIP --scenes 20
    python scripts/measure_phrases.py --out alike deleted neutral mean --scene_seed 210000 --parts two_of_four phrase
    python scripts/measure_phrases.py --out blurred mean --scene_seed 210000 --parts region

Every method gets the same targets (see m2ib_lightning/targets.py). For each phrase: whether the highest patch touches
what is meant, the share of the map on it, and the share on what must be told from it: the other named object, or the
same object in another colour. For each region of a named object: whether its word leads, the share of the text map on
it, and that on the other's name. Beside it, the share of absent words that speak against their pair. Scenes are seeded;
what is done is kept in the folder, by method, part and way, and is not done again: run again, it goes on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from on_scenes import keep, options_of

from m2ib_lightning import load_backbone, methods
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene, make_scene, object_names
from m2ib_lightning.data.scene_kinds import Kind
from m2ib_lightning.methods import M2IB, AttributionMethod
from m2ib_lightning.parts import Region
from m2ib_lightning.phrases import explain_phrases, explain_regions
from m2ib_lightning.targets import Against, WithoutPhrase, effects
from m2ib_lightning.types import Pair, PairBatch, Span

PARTS = ("two_of_four", "relation", "foil", "phrase", "absent", "region")
"""Phrases of two kinds of scenes; a caption with one of two colours against the other one, and its phrase alone; words
for what is not there; and the regions of the named ones of four objects."""

SETTINGS: dict[str, dict[str, Any]] = {"KernelSHAP": {"samples": 250}, "FIxLIP": {"samples": 250}}
"""What methods are given beside their defaults: the numbers that other tables of this project have."""

BATCH = 16
"""Scenes explained at once."""


class Asked(NamedTuple):
    """A scene, the caption that is explained, and what of it is asked for.

    Attributes:
        scene: What is shown.
        text: The caption.
        spans: Of the phrases asked for.
        foil: Instead of phrases, the caption that the pair is explained against.
        meant: Of each phrase, or of the foil, the object that is meant, an index of `Scene.objects`; and the one that
            it must be told from.
    """

    scene: Scene
    text: str
    spans: tuple[Span, ...]
    foil: str
    meant: tuple[tuple[int, int], ...]


def asked(part: str, seed: int) -> Asked:
    """What a scene is asked in a part of the measurement."""
    if part in ("two_of_four", "relation", "region"):
        kind: Kind = "relation" if part == "relation" else "two_of_four"
        scene = make_scene(seed, kind=kind)
        return Asked(scene, scene.text, scene.spans, "", ((0, 1), (1, 0)))
    if part == "absent":
        scene = make_scene(seed)
        absent = [name for name in object_names() if name not in {item.name for item in scene.objects}]
        name = absent[int(np.random.default_rng(seed).integers(len(absent)))]
        text = f"{scene.text} and a{'n' * (name[0] in 'aeiou')} {name}"
        return Asked(scene, text, ((len(text) - len(name), len(text)),), "", ())
    scene = make_scene(seed, kind="attribute")
    said, other = (item.colour for item in scene.objects[:2])
    foil = scene.text.replace(said, other, 1) if part == "foil" else ""
    return Asked(scene, scene.text, () if foil else (scene.spans[0],), foil, ((0, 1),))


def found(values: np.ndarray, scene: Scene, meant: int, other: int) -> list[float]:
    """Whether the highest patch touches what is meant, the share on it, and that on the other; values below 0 are 0."""
    positive = np.clip(values, 0, None)
    side = len(scene.labels) // len(positive)
    spread = np.kron(positive, np.ones((side, side)))
    row, column = np.unravel_index(positive.argmax(), positive.shape)
    highest = scene.labels[row * side : (row + 1) * side, column * side : (column + 1) * side]
    total = max(float(spread.sum()), 1e-12)
    shares = [float(spread[scene.labels == index].sum()) / total for index in (meant, other)]
    return [float((highest == meant).any()), *shares]


def named(region: Region, spans: Sequence[Span], names: Sequence[Span], meant: tuple[int, int]) -> list[float]:
    """Whether the token of the highest value names the region, the share on that name, and that on the other."""
    values = np.array([value if span != (0, 0) else 0 for value, span in zip(region.text_map, spans, strict=False)])
    on = [np.array([names[i][0] <= a < b <= names[i][1] for a, b in spans[: len(values)]]) for i in meant]
    total = max(float(values.sum()), 1e-12)
    return [float(on[0][values.argmax()]), *(float(values[true].sum()) / total for true in on)]


def scored(method: AttributionMethod, batch: PairBatch, questions: Sequence[Asked], out: str) -> list[list[float]]:
    """A row for each phrase or foil of a batch."""
    backbone = method.prepare()
    if "text" in method.modalities:
        masks = [[q.scene.labels == index for index, _ in q.meant] for q in questions]
        return [
            named(region, spans, q.spans, meant)
            for q, regions, spans in zip(
                questions,
                explain_regions(method, batch, masks, "blurred" if out == "alike" else out),
                batch.spans,
                strict=True,
            )
            for region, meant in zip(regions, q.meant, strict=True)
        ]
    if questions[0].foil:
        results = method.attribute(Against([q.foil for q in questions]).aim(backbone, batch))
        maps = [[a.image_map] for a in results]
    else:
        phrases = explain_phrases(method, batch, [q.spans for q in questions], None if out == "alike" else out)
        maps = [[phrase.image_map for phrase in of_pair] for of_pair in phrases]
    return [
        found(values, q.scene, *meant)
        for q, of_pair in zip(questions, maps, strict=True)
        for values, meant in zip(of_pair, q.meant, strict=True)
        if values is not None
    ]


def against(backbone: Backbone, batch: PairBatch, questions: Sequence[Asked], out: str) -> list[list[float]]:
    """For each absent word, whether it speaks against its pair; this depends on no method."""
    target = WithoutPhrase([q.spans[0] for q in questions], "mean" if out == "alike" else out)
    return [[float(e < 0)] for e in effects(backbone, batch, target.directions(backbone, batch)).tolist()]


def main() -> None:
    """Measure what is not measured yet, and print it all."""
    parser = options_of(__doc__, 300, 200_000, "outputs/phrases")
    parser.add_argument("--methods", nargs="+", default=["M2IB"], help="names of m2ib_lightning.methods")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--out", nargs="+", default=["alike"],
        help="how phrases are taken out (alike, deleted, neutral, mean), or regions (blurred, mean)",
    )  # fmt: skip
    options = parser.parse_args()
    backbone, rows = load_backbone(options.backbone), []
    for name in options.methods:
        for part in options.parts:
            modalities = ["text" if part == "region" else "image"]
            method = getattr(methods, name)(backbone, modalities=modalities, **SETTINGS.get(name, {}))
            ways = options.out[:1] if part == "foil" else options.out
            for out in ways if part != "absent" or isinstance(method, M2IB) else []:
                values = measured(method, part, out, options)
                mean = dict(zip(("touches", "share", "other"), values.mean(0).tolist(), strict=False))
                mean = {"against": mean["touches"]} if part == "absent" else mean
                cells = {k: mean.get(k, float("nan")) for k in ("touches", "share", "other", "against")}
                rows.append({"method": name, "part": part, "out": out, "scenes": options.scenes, **cells})
                print(rows[-1], file=sys.stderr, flush=True)
    keep(rows, options)


def measured(method: AttributionMethod, part: str, out: str, options: Any) -> np.ndarray:
    """(phrases, columns), what is kept of it and the rest."""
    said = json.dumps([method.settings, part, out, options.scene_seed], sort_keys=True, default=str)
    file = options.output / f"{type(method).__name__}-{part}-{out}-{hashlib.sha256(said.encode()).hexdigest()[:8]}.json"
    done: list[list[list[float]]] = json.loads(file.read_text()) if file.is_file() else []
    file.parent.mkdir(parents=True, exist_ok=True)
    for start in range(len(done) * BATCH, options.scenes, BATCH):
        questions = [asked(part, options.scene_seed + i) for i in range(start, min(start + BATCH, options.scenes))]
        backbone = method.prepare()
        batch = backbone.preprocess_pairs([Pair(str(i), q.scene.image, q.text) for i, q in enumerate(questions)])
        rows = against(backbone, batch, questions, out) if part == "absent" else scored(method, batch, questions, out)
        done.append(rows)
        if len(questions) == BATCH:  # a last, smaller one would be in the way of more scenes
            file.write_text(json.dumps(done))
    return np.array([row for rows in done for row in rows])


if __name__ == "__main__":
    main()
