"""What metrics say of phrases and regions, against values worked out by hand and against scenes."""

import math

import numpy as np
import pytest
import torch

from m2ib_lightning import load_backbone
from m2ib_lightning.data import PairDataModule, make_scene
from m2ib_lightning.data.asked import ask_all
from m2ib_lightning.evaluation import Evaluator
from m2ib_lightning.methods import M2IB, UniformMap
from m2ib_lightning.metrics import (
    PhraseLeak,
    PhraseMass,
    PhrasePointing,
    PhraseRetrieval,
    RegionWords,
    phrase_leak,
    phrase_mass,
    phrase_pointing,
    phrase_retrieval,
    region_words,
)
from m2ib_lightning.types import Pair

MAPS = torch.tensor([[[3.0, 3.0, 1.0, 0.0]], [[4.0, 4.0, 2.0, -9.0]]])
TRUTHS = torch.tensor([[[False, True, False, False]], [[False, False, True, False]]])


def test_pointing_asks_whether_the_highest_patch_touches():
    maps, touched = torch.tensor([[[3.0, 1.0]], [[4.0, 2.0]]]), torch.tensor([[[True, True]], [[False, True]]])
    assert phrase_pointing(maps, touched) == 0.5  # the first phrase's patch does, the second's does not
    assert phrase_pointing(maps, torch.zeros_like(touched)) == 0  # nothing of what they name is seen


def test_an_even_map_points_at_what_is_named_as_often_as_chance():
    pair = Pair("a", (scene := make_scene(60_000, kind="two_of_four")).image, scene.text, truth=scene.truth)
    method = UniformMap(load_backbone("embedded"))
    _, (row,) = Evaluator(method, [PhrasePointing()]).explain(ask_all([pair], "truth"))
    shares = []
    for index in range(2):
        cells = (scene.labels == index).reshape(8, 12, 8, 12).any((1, 3))
        shares.append(cells.mean())
    assert row["image/PhrasePointing"] == pytest.approx(np.mean(shares)) and max(shares) < 0.5


def test_mass_is_the_share_on_what_is_named_and_leak_that_on_the_others():
    # 3 of 7 and 2 of 10; on the other's pixel 1 of 7 and 4 of 10. Values below 0 count as 0.
    assert phrase_mass(MAPS, TRUTHS) == pytest.approx((3 / 7 + 2 / 10) / 2)
    assert phrase_leak(MAPS, TRUTHS.flip(0)) == pytest.approx((1 / 7 + 4 / 10) / 2)


def test_a_map_of_nothing_leaks_as_an_even_one_and_a_phrase_alone_leaks_nothing():
    # On one pixel of four; no pixel of the second phrase's is another's.
    assert phrase_leak(torch.stack([torch.zeros(1, 4), MAPS[1]]), TRUTHS & TRUTHS[:1]) == pytest.approx(1 / 4 / 2)


def test_retrieval_takes_the_phrase_with_the_largest_share_at_a_thing():
    # At the first thing the shares are 3/7 and 4/10, at the second 1/7 and 2/10: each finds its own.
    assert phrase_retrieval(MAPS, TRUTHS) == 1
    assert phrase_retrieval(MAPS.flip(0), TRUTHS) == 0
    assert math.isnan(phrase_retrieval(MAPS[:1], TRUTHS[:1]))


def test_retrieval_weighs_shares_and_not_how_much_there_is():
    # Shares at the first thing 0.2 / 0.3 and 0.3 / 0.9, at the second 0.1 / 0.3 and 0.6 / 0.9.
    maps = torch.tensor([[[0.2, 0.1, -5.0]], [[0.3, 0.6, 0.0]]])
    truths = torch.tensor([[[True, False, False]], [[False, True, False]]])
    assert phrase_retrieval(maps, truths) == phrase_retrieval(10 * maps, truths) == 1
    assert phrase_retrieval(maps, truths[[0, 0]]) == 0.5  # the second phrase is not the one with the larger share


def test_words_of_regions_leave_special_tokens_out():
    maps = torch.tensor([[9.0, 1.0, 2.0], [9.0, 3.0, 2.0]])
    truths = torch.tensor([[False, False, True], [False, False, True]])
    assert region_words(maps, truths, torch.tensor([False, True, True])) == 0.5


@pytest.mark.parametrize("kind", ["two_of_four", "attribute", "twice"])
def test_the_truth_of_a_scene_is_told_thing_by_thing(kind):
    for seed in range(60_000, 60_010):
        scene = make_scene(seed, kind=kind)
        named = [part for part in scene.truth.parts if part.span]
        assert [part.span for part in named] == list(scene.spans)
        np.testing.assert_array_equal(np.any([part.mask for part in named], axis=0), scene.mask)
        for part in named:
            of = {scene.objects[i].called for i in np.unique(scene.labels[part.mask])}
            assert of == {scene.text[slice(*part.span)]}
        likes = [part.mask for part in scene.truth.parts if not part.span]
        assert len(likes) == (kind == "attribute")
        for mask in likes:
            (other,) = {scene.objects[i] for i in np.unique(scene.labels[mask])}
            assert other.name == scene.objects[0].name and other.colour != scene.objects[0].colour


def test_phrases_are_scored_on_scenes():
    scenes = [make_scene(60_000 + i, kind="two_of_four") for i in range(2)]
    pairs = ask_all([Pair(str(i), s.image, s.text, truth=s.truth) for i, s in enumerate(scenes)], "truth")
    metrics = [PhrasePointing(), PhraseMass(), PhraseLeak(), PhraseRetrieval(), RegionWords()]
    found, rows = Evaluator(M2IB(load_backbone("embedded"), noise_samples=2), metrics).explain(pairs)
    assert [len(a.phrases) for a in found] == [2, 2] and [len(a.regions) for a in found] == [2, 2]
    for a, scene, row in zip(found, scenes, rows, strict=True):
        shares = []
        for index, phrase in enumerate(a.phrases):
            spread = np.kron(phrase.image_map, np.ones((12, 12)))
            shares.append(spread[scene.labels == index].sum() / spread.sum())
        assert row["image/PhraseMass"] == pytest.approx(np.mean(shares), abs=1e-5)
        assert row["image/PhraseMass"] > 0.5 > 0.1 > row["image/PhraseLeak"]
        assert row["image/PhrasePointing"] == row["image/PhraseRetrieval"] == row["text/RegionWords"] == 1


def test_pairs_without_phrases_have_no_value():
    data = PairDataModule(scenes=1)
    data.setup("test")
    (pairs,) = data.test_dataloader()
    (_, rows) = Evaluator(M2IB(load_backbone("embedded"), steps=1, noise_samples=1), [PhraseMass()]).explain(pairs)
    assert math.isnan(rows[0]["image/PhraseMass"])
