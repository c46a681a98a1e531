"""`m2ib check`: what it measures is so, and its page and text say it."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from m2ib_lightning import M2IB, load_backbone
from m2ib_lightning.cli import main
from m2ib_lightning.data import make_scene
from m2ib_lightning.evaluation import check
from m2ib_lightning.evaluation.check import check_model, exactness
from m2ib_lightning.methods import RandomMap
from m2ib_lightning.methods.objective import objectives
from tests.checkpoints import CHECKPOINTS
from tests.evaluation.scenes import scene_pairs


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


@pytest.fixture(scope="module")
def health(embedded):
    return check_model(lambda **changes: M2IB(**({"backbone": embedded} | changes)), scene_pairs(3), at_once=2)


def test_cut_towers_are_exact_and_a_changed_one_is_not(embedded, monkeypatch):
    batch = embedded.preprocess_pairs(scene_pairs(2))
    assert all(exactness(embedded, modality, batch) < 1e-5 for modality in ("image", "text"))
    suffix = type(embedded.image).suffix
    monkeypatch.setattr(
        type(embedded.image), "suffix", lambda s, x, h, layer: suffix(s, x, h, layer) * (1 + 0.1 * (layer == 3))
    )
    assert exactness(embedded, "image", batch) == pytest.approx(0.1, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("family", CHECKPOINTS)
def test_towers_of_every_family_are_exact_where_the_library_takes_our_inputs(family, tmp_path):
    backbone = load_backbone(str(CHECKPOINTS[family](tmp_path)))
    batch = backbone.preprocess_pairs(scene_pairs(3))
    found = {modality: exactness(backbone, modality, batch) for modality in ("image", "text")}
    assert all(error is None or error < 1e-4 for error in found.values()), found
    assert None not in found.values() or family in ("blip", "siglip2")


def test_the_curve_is_what_hiding_each_group_of_patches_costs(embedded, health):
    pair, a = scene_pairs(1)[0], health.results[0]
    of = objectives(embedded, embedded.preprocess_pairs([pair]))["image"]
    order = np.argsort(-a.image_map, axis=None, kind="stable")
    assert len(health.falls[0]) == 7  # 1, 1, 2, 4, 8, 16 and 32 of 64
    for index, group in ((0, order[:1]), (2, order[2:4]), (6, order[32:])):
        mask = torch.ones(64)
        mask[group.tolist()] = 0
        fall = (of.clean - of.masked(mask.reshape(1, 1, 8, 8))[0]) / of.clean
        assert health.falls[0][index] == pytest.approx(float(fall), abs=1e-4)
        assert health.nats[0][index] == pytest.approx(a.image_map.flat[group].sum() / a.image_map.sum(), rel=1e-4)


def test_everything_is_measured_on_every_pair(health):
    assert len(health.results) == len(health.falls) == len(health.outlying) == len(health.halves["text"]) == 3
    assert health.seconds > 0 and health.gigabytes > 0.1
    assert "ok" in health.text() and "rank correlation" in health.text()


def test_what_is_bad_is_named_and_what_is_good_is_not(health):
    from dataclasses import replace

    good = {"errors": {"image": 1e-7, "text": None}, "marked": [0.0], "halves": {"image": [0.95], "text": [0.99]}}
    bad = {"errors": {"image": 1e-3, "text": None}, "marked": [0.5], "halves": {"image": [0.5], "text": [0.99]}}
    named = ("cut towers", "artefact patches", "two halves")
    assert not any(name in replace(health, **good).conclusion for name in named)
    assert all(name in replace(health, **bad).conclusion for name in named)


def test_the_time_ends_the_check_after_the_first_batch(embedded):
    found = check_model(
        lambda **changes: M2IB(**({"backbone": embedded} | changes)), scene_pairs(3), minutes=0, at_once=1
    )
    assert len(found.results) == 1


@pytest.mark.slow
def test_the_page_and_the_text_are_written_for_pairs_of_ones_own(tmp_path: Path, capsys):
    scene = make_scene(5)
    scene.image.save(tmp_path / "a.png")
    Image.new("RGB", (30, 40), "red").save(tmp_path / "b.png")
    (tmp_path / "pairs.csv").write_text(f"image,text\na.png,{scene.text}\nb.png,<b>a cat\n")
    main(["check", "--data.source", str(tmp_path / "pairs.csv"), "--output", str(tmp_path / "out")])
    page, text = (tmp_path / "out" / "check.html").read_text(), (tmp_path / "out" / "check.txt").read_text()
    assert scene.text in page and "&lt;b&gt;a cat" in page and "<b>a cat" not in page and "http" not in page
    assert text.strip() in capsys.readouterr().out and "CLIPModel" in text


def test_without_pairs_drawings_are_composed_large(tmp_path: Path, monkeypatch):
    from m2ib_lightning.cli.verbs import check as verb
    from m2ib_lightning.evaluation import check

    seen = []

    class Done(Exception):
        pass

    def measured(make, pairs, *more, **options):
        seen.extend(pairs)
        raise Done

    monkeypatch.setattr(check, "check_model", measured)
    with pytest.raises(Done):
        main(["check", "--output", str(tmp_path)])
    assert len(seen) == 32 and {pair.image.size for pair in seen} == {(384, 384)} and verb.SHOWN < 32


def test_another_method_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--model", "GradCAM", "--pairs", "1"])
    assert "Expected M2IB as the method but got GradCAM" in capsys.readouterr().err


class _Quick(RandomMap):
    """A method that says at once what the check asks of M2IB."""

    prior = "unit"

    def __init__(self, backbone, samples=5, **changes):
        super().__init__(backbone, seed=changes.get("seed", 0))
        self.noise = SimpleNamespace(samples=samples)
        self.towers = {"image": SimpleNamespace(layer=2), "text": SimpleNamespace(layer=1)}


@pytest.mark.parametrize(
    ("step", "minutes", "done"),
    [
        (20.0, 1, [1, 2]),  # after a pair 60 s have passed, which is no more than a minute; then 120
        (20.3, 1, [1]),
        (20.0, 3, [1, 2, 3]),
        (20.0, 0, [1]),
    ],
)
def test_no_pairs_are_begun_after_the_time_and_their_seconds_are_those_of_explaining(
    step, minutes, done, embedded, monkeypatch
):
    clock = itertools.count()
    monkeypatch.setattr(check, "time", SimpleNamespace(perf_counter=lambda: step * next(clock)))
    monkeypatch.setattr(check, "exactness", lambda *given: None)
    monkeypatch.setattr(check, "_add", lambda health, backbone, batch, results, method: health.results.extend(results))
    told = []
    found = check_model(lambda **changes: _Quick(embedded), scene_pairs(3), minutes, 1, told.append)
    assert told == done and [a.id for a in found.results] == [str(i) for i in range(len(done))]
    assert found.seconds == pytest.approx(step)  # from before a pair is explained until after


@pytest.mark.parametrize(("samples", "half"), [(8, 4), (5, 2), (2, 1), (1, 1)])
def test_halves_of_the_noise_differ_in_their_seed_alone(samples, half, embedded):
    made = []

    class Done(Exception):
        pass

    def make(**changes):
        made.append({name: value for name, value in changes.items() if name != "backbone"})
        if len(made) == 3:
            raise Done
        return _Quick(embedded, samples)

    with pytest.raises(Done):
        check_model(make, scene_pairs(1))
    assert made == [{}, *({"seed": seed, "noise_samples": half, "antithetic": False} for seed in (1, 2))]


def test_pairs_come_by_fours_and_the_maps_of_two_halves_are_correlated(embedded, monkeypatch):
    monkeypatch.setattr(check, "exactness", lambda *given: None)
    monkeypatch.setattr(check, "_add", lambda health, backbone, batch, results, method: health.results.extend(results))
    told = []
    found = check_model(lambda **changes: _Quick(**{"backbone": embedded} | changes), scene_pairs(5), tell=told.append)
    assert told == [4, 5]
    batch = embedded.preprocess_pairs(scene_pairs(4))
    one, two = (RandomMap(embedded, seed=seed).attribute(batch) for seed in (1, 2))
    expected = [np.corrcoef(a.image_map.ravel(), b.image_map.ravel())[0, 1] for a, b in zip(one, two, strict=True)]
    assert found.halves["image"][:4] == pytest.approx(expected, abs=1e-5)
    assert len(found.halves["image"]) == len(found.halves["text"]) == 5
    assert found.about["setting"] == "layers image 2, text 1; prior unit; 5 noise samples"
    model = found.about["model"]
    assert f"weights {embedded.weight_hash}, image 8 blocks, text 4 blocks" in model
    assert 0.05 < found.gigabytes < 100


def test_a_map_of_little_or_nothing_and_a_text_of_few_words_are_measured_as_others(embedded, monkeypatch):
    """Hiding one word at a time, and the shares of a map however small its values are."""
    attribute, artefacts = RandomMap.attribute, check.find_artefacts

    def faint(self, batch):
        found = attribute(self, batch)
        for a, scale in zip(found, (1, 1e-3, 0), strict=True):
            a.image_map *= scale
        return found

    def some(*given):
        return [a._replace(outlying=np.arange(64).reshape(8, 8) < 16) for a in artefacts(*given)]

    monkeypatch.setattr(_Quick, "attribute", faint)
    monkeypatch.setattr(check, "find_artefacts", some)
    scene = scene_pairs(3)
    pairs = [pair._replace(text=text) for pair, text in zip(scene, ("a red cat", "cat", "red cat"), strict=True)]
    found = check_model(lambda **changes: _Quick(**{"backbone": embedded} | changes), pairs)
    assert [float(nats.sum()) for nats in found.nats] == pytest.approx([1, 1, 0], abs=1e-5)
    assert found.outlying == [0.25] * 3
    for a, marked in zip(found.results[:2], found.marked, strict=False):
        assert marked == pytest.approx(a.image_map[:2].sum() / a.image_map.sum(), rel=1e-5)
    assert found.marked[2] == 0
    assert len(found.words) == 1  # of the text of three words; two or one have no order to speak of
    (a,) = (a for a in found.results if a.text == "a red cat")
    of = objectives(embedded, embedded.preprocess_pairs(pairs))["text"]
    falls = []
    for index in np.nonzero(~a.special)[0]:
        mask = torch.ones(1, 3, of.inputs.shape[1])
        mask[0, 0, index] = 0
        falls.append(float((of.clean[0] - of.masked(mask)[0, 0]) / of.clean[0].abs()))
    assert found.words[0] == pytest.approx(spearmanr(a.text_map[~a.special], falls).statistic, abs=1e-5)


@pytest.mark.parametrize("layer", ["embeddings", 6])
def test_an_error_at_the_first_or_the_last_layer_is_found(layer, embedded, monkeypatch):
    batch = embedded.preprocess_pairs(scene_pairs(1))
    suffix = type(embedded.image).suffix
    monkeypatch.setattr(
        type(embedded.image), "suffix", lambda s, x, h, at: suffix(s, x, h, at) * (1 + 0.5 * (at == layer))
    )
    assert exactness(embedded, "image", batch) == pytest.approx(0.5, abs=0.01)
