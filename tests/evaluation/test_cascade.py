"""Weights randomised from the top, part by part."""

import copy

import pytest
import torch

from m2ib_lightning import load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.evaluation import Evaluator
from m2ib_lightning.evaluation.sanity import parts, randomise, randomise_from_top
from m2ib_lightning.methods import GradCAM
from m2ib_lightning.metrics import RandomisationSimilarity
from m2ib_lightning.types import Pair


def changed(backbone, other):
    pairs = zip(backbone.model.named_parameters(), other.model.parameters(), strict=True)
    return {name for (name, a), b in pairs if not torch.equal(a, b)}


def test_parts_are_randomised_from_the_top_and_the_original_stays():
    backbone = load_backbone("embedded")
    before, found = backbone.weight_hash, parts(backbone)
    assert list(found) == ["head", *(f"block -{i}" for i in range(1, 9)), "embeddings"]
    assert found["head"] == ["visual_projection.weight", "text_projection.weight"] and len(found["embeddings"]) == 4
    assert {name.split(".layers.")[1][0] for name in found["block -1"] if "vision" in name} == {"7"}
    assert {name.split(".layers.")[1][0] for name in found["block -1"] if "text" in name} == {"3"}
    assert sum(len(names) for names in found.values()) == sum(p.ndim > 1 for p in backbone.model.parameters())
    wanted = set()
    for count, names in enumerate(found.values(), start=1):
        twin = copy.deepcopy(backbone)
        randomise_from_top(twin, count)
        wanted |= set(names)
        assert changed(backbone, twin) == wanted
    whole = copy.deepcopy(backbone)
    randomise(whole)
    assert changed(whole, twin) == set()
    backbone.__dict__.pop("weight_hash")
    assert backbone.weight_hash == before


@pytest.mark.slow
def test_a_value_per_part_and_the_last_is_the_metric():
    backbone = load_backbone("embedded")
    scene = make_scene(7)
    pairs = [Pair("a", scene.image, scene.text)]
    metrics = [RandomisationSimilarity("image", by_layer=True), RandomisationSimilarity("text")]
    row = Evaluator(GradCAM(backbone), metrics).explain(pairs)[1][0]
    values = row["image/by_layer"]
    assert len(values) == len(parts(backbone)) and "text/by_layer" not in row
    assert values[-1] == pytest.approx(row["image/RandomisationSimilarity"], abs=1e-6)
