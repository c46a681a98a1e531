#!/usr/bin/env python
"""Which pairs the verdict flags: good scenes of several kinds, and pairs of which no map should be believed.

    python scripts/measure_verdicts.py                       # the seeds that the thresholds were not chosen on
    python scripts/measure_verdicts.py --scene_seed 80000    # those that they were chosen on

Good are scenes with their own captions. Bad are captions of which the picture shows nothing, captions in scripts that
the model never read, pictures of noise, and models that are broken: all weights shuffled, the upper half of each
tower's blocks or the projections shuffled, the upper half of the blocks removed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from on_scenes import keep, options_of
from PIL import Image

from m2ib_lightning import Attribution, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene, make_scene
from m2ib_lightning.data.scene_kinds import Kind
from m2ib_lightning.evaluation.sanity import randomise, randomise_from_top
from m2ib_lightning.methods import M2IB
from m2ib_lightning.types import Pair, Truth
from m2ib_lightning.verdict import VERDICTS

BATCH = 20

CAPTIONS = (
    "一只猫坐在窗台上", "街上有一辆红色的汽车", "桌子上放着一个苹果", "海边的日落", "一把雨伞", "飞机正在起飞",
    "猫が椅子の上にいます", "赤い車の写真", "りんごの絵", "木の下の犬", "傘を持つ人",
    "고양이 사진", "빨간 자동차", "나무 옆의 집", "사과 그림",
    "фотография кошки", "красная машина на улице", "яблоко на столе", "дом у дерева", "зонтик под дождём",
    "μια γάτα στην καρέκλα", "ένα κόκκινο αυτοκίνητο", "το σπίτι δίπλα στο δέντρο",
    "صورة قطة", "سيارة حمراء في الشارع", "تفاحة على الطاولة", "بيت بجانب شجرة",
    "תמונה של חתול", "מכונית אדומה", "תפוח על השולחן",
    "बिल्ली की तस्वीर", "लाल गाड़ी", "मेज पर सेब", "पेड़ के पास घर",
    "รูปแมว", "รถสีแดง", "บ้านข้างต้นไม้",
)  # fmt: skip
"""What none of the texts that the embedded model learnt from was written in."""


class Case(NamedTuple):
    """Pairs of one kind.

    Attributes:
        name: What the kind is called in the table.
        bad: Whether no map of it should be believed; None where the broken model still does its work.
        pairs: Makes the pair of a seed.
        change: Breaks a copy of the model; None leaves it whole.
    """

    name: str
    bad: bool | None
    pairs: Callable[[int], Pair]
    change: Callable[[Backbone, int], Backbone] | None = None


def pair(scene: Scene, seed: int) -> Pair:
    """A scene with its own caption and its truth."""
    return Pair(str(seed), scene.image, scene.text, truth=Truth(scene.mask, scene.spans))


def of_kind(kind: Kind) -> Callable[[int], Pair]:
    """The scenes of a kind."""
    return lambda seed: pair(make_scene(seed, kind=kind), seed)


def mismatched(seed: int) -> Pair:
    """A scene with the caption of another one, of which it shows nothing."""
    scene = make_scene(seed)
    shown = {thing.name for thing in scene.objects}
    others = (make_scene(seed + 5_000 + i) for i in range(1000))
    other = next(o for o in others if not shown & {thing.name for thing in o.objects if thing.named})
    return Pair(str(seed), scene.image, other.text)


def foreign(seed: int) -> Pair:
    """A scene with a caption in a script that the model never read."""
    return Pair(str(seed), make_scene(seed).image, CAPTIONS[seed % len(CAPTIONS)])


def noise(seed: int) -> Pair:
    """A picture of noise, of a grain of 1, 4 or 12 pixels, with the caption of a scene."""
    rng = np.random.default_rng(seed)
    cells = 96 // (1, 4, 12)[seed % 3]
    picture = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
    return Pair(str(seed), picture.resize((96, 96), Image.Resampling.NEAREST), make_scene(seed).text)


def shuffled(backbone: Backbone, seed: int) -> Backbone:
    """All weights of the model shuffled."""
    randomise(backbone, seed=seed)
    return backbone


def upper_shuffled(backbone: Backbone, seed: int) -> Backbone:
    """The projections and as many of the last blocks of each tower as are half of the image's shuffled."""
    randomise_from_top(backbone, 1 + backbone.image.depth // 2, seed)
    return backbone


def head_shuffled(backbone: Backbone, seed: int) -> Backbone:
    """The projections alone shuffled."""
    randomise_from_top(backbone, 1, seed)
    return backbone


def cut(backbone: Backbone, towers: tuple[str, ...]) -> Backbone:
    """The upper half of the blocks of some towers removed, as a checkpoint of its own."""
    from transformers import CLIPModel

    model: Any = copy.deepcopy(backbone.model)
    for tower in towers:
        layers = getattr(model, f"{tower}_model").encoder.layers
        kept = len(layers) // 2
        del layers[kept:]
        getattr(model.config, f"{tower}_config").num_hidden_layers = kept
    assert isinstance(model, CLIPModel)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        backbone.processor.save_pretrained(folder)
        return load_backbone(folder)


CASES = (
    Case("plain", False, of_kind("plain")),
    Case("clutter", False, of_kind("clutter")),
    Case("two of four objects named", False, of_kind("two_of_four")),
    Case("caption of another picture", True, mismatched),
    Case("caption in another script", True, foreign),
    Case("picture of noise", True, noise),
    Case("all weights shuffled", True, of_kind("plain"), shuffled),
    Case("upper half shuffled", True, of_kind("plain"), upper_shuffled),
    Case("projections shuffled", True, of_kind("plain"), head_shuffled),
    Case("both towers cut in half", True, of_kind("plain"), lambda b, _: cut(b, ("vision", "text"))),
    Case("image tower cut in half", True, of_kind("plain"), lambda b, _: cut(b, ("vision",))),
    # The embedded model reads a name in its first blocks, and still tells captions apart.
    Case("text tower cut in half, counted nowhere", None, of_kind("plain"), lambda b, _: cut(b, ("text",))),
)


def explained(case: Case, backbone: Backbone, options: argparse.Namespace) -> Iterator[tuple[Attribution, Pair]]:
    """The results of a case; of a model broken at random, another one for each third of the scenes."""
    third = -(-options.scenes // 3)
    for start in range(options.scene_seed, options.scene_seed + options.scenes, third):
        model = backbone if case.change is None else case.change(copy.deepcopy(backbone), start)
        method = M2IB(model, **json.loads(options.method))
        seeds = range(start, min(start + third, options.scene_seed + options.scenes))
        for some in (seeds[i : i + BATCH] for i in range(0, len(seeds), BATCH)):
            pairs = [case.pairs(seed) for seed in some]
            yield from zip(method.attribute(model.preprocess_pairs(pairs)), pairs, strict=True)


def row_of(a: Attribution, of: Pair) -> dict[str, Any]:
    """The verdict on a result, what it follows from, and whether the highest pixel and word are what is named."""
    loss = a.history["loss/total"]
    assert a.image_map is not None and a.text_map is not None
    return {
        "id": a.id,
        "verdict": a.verdict,
        "image_match": a.image_match,
        "text_match": a.text_match,
        "score": a.score,
        "image_left": a.image_score / a.score,
        "text_left": a.text_score / a.score,
        "image_nats": float(a.image_map.max()),
        "text_nats": float(a.text_map.max()),
        "falling": float((loss[-2] - loss[-1]) / max(loss[0] - loss.min(), 1e-6)),
        "points": None if of.truth.mask is None else points(a, of.truth.mask),
        "names": None if of.truth.spans is None else names(a, of.truth.spans),
    }


def summary(case: Case, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The shares of a case that got each verdict, and of which the highest pixel and word are what is named."""
    said = {verdict: sum(row["verdict"] == verdict for row in found) / len(found) for verdict in VERDICTS}
    right = {name: [row[name] for row in found if row[name] is not None] for name in ("points", "names")}
    return {
        "pairs": case.name, "bad": case.bad, "count": len(found), "flagged": 1 - said["ok"], **said,
        **{name: sum(values) / len(values) if values else None for name, values in right.items()},
    }  # fmt: skip


def points(a: Attribution, mask: np.ndarray) -> bool:
    """Whether the highest pixel lies on a named object."""
    heat = a.heatmap((mask.shape[0], mask.shape[1]))
    return bool(mask[np.unravel_index(heat.argmax(), heat.shape)])


def names(a: Attribution, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether the word with the highest value names an object."""
    start, end, _ = max(a.word_spans(), key=lambda word: word[2])
    return any(first <= start < end <= last for first, last in spans)


def main() -> None:
    """Explain each case, or take up what an interrupted run has of it, and say which verdicts it got."""
    parser = options_of(__doc__, scenes=100, scene_seed=90_000, output="outputs/verdicts")
    parser.add_argument("--method", default="{}", help="settings of M2IB, as JSON")
    parser.add_argument("--cases", nargs="+", help="parts of the names of the cases, by default all")
    options = parser.parse_args()
    backbone = load_backbone(options.backbone)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # what is measured of broken models is of no use later
        for case in CASES:
            if options.cases and not any(part in case.name for part in options.cases):
                continue
            path = options.output / f"{case.name}.json"
            if not path.is_file():
                found = [row_of(a, pair) for a, pair in explained(case, backbone, options)]
                options.output.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found))
            rows.append(summary(case, json.loads(path.read_text())))
    keep(rows, options)


if __name__ == "__main__":
    main()
