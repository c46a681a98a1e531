"""A calibration is chosen by what the model itself says, is one folder, and is refused with another model."""

import csv
import inspect
import shutil
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
import yaml

import m2ib_lightning as m2ib
from m2ib_lightning import AttributionStore, calibration
from m2ib_lightning.calibration import GridPoint, calibrate, shares, spread_layers
from m2ib_lightning.cli import main
from m2ib_lightning.data import Scene, make_scene
from m2ib_lightning.evaluation import true_tokens
from m2ib_lightning.methods import M2IB, RELEASED, Occlusion
from m2ib_lightning.methods.m2ib import BETAS
from m2ib_lightning.metrics import relevance_mass_accuracy
from m2ib_lightning.prior import read_priors
from m2ib_lightning.types import Pair
from tests.checkpoints import random_clip


@pytest.fixture(scope="module")
def embedded():
    return m2ib.load_backbone("embedded")


def pairs_of(count: int, first: int = 0) -> list:
    return [(scene.image, scene.text) for scene in map(make_scene, range(first, first + count))]


@pytest.fixture(scope="module")
def found(embedded):
    """Two layers and betas of each tower on eight scenes, with few steps."""
    return calibrate(pairs_of(8), embedded, [0, 3], ["embeddings", 1], (0.3, 3.0), steps=5)


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    made = tmp_path_factory.mktemp("calibrated")
    found.save(made)
    return made


def test_faithfulness_is_the_mean_fall_of_what_is_drawn_from_the_maps(embedded):
    a, hidden = (
        m2ib.explain(*pairs_of(2)[1], embedded, method=method, modalities=["text"])[0]
        for method in ("randommap", "occlusion")
    )
    maps, falls = np.array([0.0, 3.0, 1.0, 0.0, 9.0]), np.array([0.0, 0.4, 0.1, 0.1, 0.0])
    special = np.array([False, False, False, False, True])
    a = replace(a, text_map=maps, special=special, score=0.5, text_score=0.3)
    hidden = replace(hidden, text_map=falls, special=special)
    (row,) = calibration._rows("text", [a], [hidden])
    # Drawn from the map: 3/4 of 0.4 and 1/4 of 0.1; what a special token holds is no part of it.
    assert row == pytest.approx([0.325, 0.15, 0.4, 0.3, 0.5])
    # Of two such pairs, of which the second's map is even.
    sums = row + np.array([0.15, 0.15, 0.4, 0.5, 0.5])
    assert shares(sums) == pytest.approx((0.8, (0.475 - 0.3) / 0.5))


def test_of_pairs_that_are_not_similar_nothing_is_left_and_of_parts_that_cost_alike_none_is_faithful():
    assert shares(np.array([[0.1, 0.1, 0.1, 0.5, -0.2], [0.1, 0.1, 0.1, 0.5, 0.0]])) == (pytest.approx([0, 0]),) * 2


def test_a_point_is_clearly_better_only_if_nearly_all_resamples_say_so():
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.uniform(0.2, 0.3, 30), np.tile([0.1, 0.5, 0.4, 0.4], (30, 1))])
    raised, noisy, halved = rows.copy(), rows.copy(), rows.copy()
    raised[:, 0] += 0.05
    noisy[:, 0] += 0.01 + 0.1 * np.tile([-1, 1], 15)
    halved[:, 3] = 0.2  # as faithful, with half of the similarity left
    better = calibration.clearly_better
    assert better(raised, rows) and better(rows, halved)
    assert not better(noisy, rows) and not better(halved, rows)
    assert not any(better(same, same) for same in (rows, halved))


def test_faithful_maps_of_a_model_that_was_switched_off_are_worth_nothing():
    on, off, more = (GridPoint("image", 0, 1.0, left, 0.6) for left in (1.0, -0.2, 1.4))
    assert off.worth == 0 < on.worth == more.worth


def test_a_model_that_no_layer_works_for_is_said_to_have_none(found):
    lost = replace(found, chosen={"image": GridPoint("image", 0, 1.0, 0.1, 0.2), "text": found.chosen["text"]})
    image, text = str(lost).split("\n")
    assert image.startswith("image_layer 0, image_beta 1: ") and "NO LAYER" in image and "NO LAYER" not in text


def test_the_grid_has_all_that_was_asked_for(found):
    asked = {("image", layer, beta) for layer in (0, 3) for beta in (0.3, 3.0)}
    asked |= {("text", layer, beta) for layer in ("embeddings", 1) for beta in (0.3, 3.0)}
    assert {point[:3] for point in found.grid} == asked


def test_the_betas_that_are_tried_reach_beyond_the_default_and_to_that_of_the_released_code():
    assert sorted(calibration.BETAS) == list(calibration.BETAS)
    assert {BETAS["image_beta"], BETAS["text_beta"], RELEASED["image_beta"]} <= set(calibration.BETAS)
    assert calibration.BETAS[-1] > 2 * BETAS["image_beta"]


def test_the_point_that_is_worth_most_is_chosen_unless_the_default_is_nearly_as_good():
    def chosen(drawn, usual=("image", 3, 3.0)):
        rows = {at: np.tile([of, 0.1, 0.5, 0.4, 0.4], (20, 1)) for at, of in drawn.items()}
        rows[best][::2, 0] += 0.1
        rows[best][1::2, 0] -= 0.1
        points = [GridPoint(*at, *map(float, shares(of.sum(0)))) for at, of in rows.items()]
        return calibration._choose(points, rows, usual)[:3]

    best, default = ("image", 5, 3.0), ("image", 3, 3.0)
    assert chosen({default: 0.29, best: 0.3}) == default
    assert chosen({default: 0.2, best: 0.3}) == best
    assert chosen({default: 0.29, best: 0.3}, usual=("image", 4, 3.0)) == best


def test_its_priors_are_those_of_the_pairs_at_the_chosen_layers(embedded, found):
    images, texts = map(list, zip(*pairs_of(8), strict=True))
    with torch.no_grad():
        states = embedded.image.prefix(embedded.preprocess(images, texts), found.chosen["image"].layer).states
    content = states[:, 1:].flatten(0, 1)  # CLS is summed apart
    torch.testing.assert_close(found.priors["image"].mean, content.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.priors["image"].std, content.std(0, correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_explaining_with_its_folder_gives_what_was_measured_of_the_choice(embedded, found, tmp_path):
    """Also where the folder was moved to another place."""
    found.save(tmp_path / "made")
    moved = (tmp_path / "made").rename(tmp_path / "moved")
    images, texts = map(list, zip(*pairs_of(8), strict=True))
    results = m2ib.explain(images, texts, embedded, calibration=moved, steps=5, noise_samples=2, tolerance=None)
    hidden = Occlusion(embedded).attribute(embedded.preprocess(images, texts))
    for modality, point in found.chosen.items():
        assert {a.settings[f"{modality}_layer"] for a in results} == {point.layer}
        left = sum(getattr(a, f"{modality}_score") for a in results) / sum(a.score for a in results)
        assert left == pytest.approx(point.left, rel=1e-3)
        sums = calibration._rows(modality, results, hidden).sum(0)
        assert float(shares(sums)[1]) == pytest.approx(point.faithfulness, abs=1e-3)


def test_an_argument_wins_over_the_calibration(embedded, folder):
    (result,) = m2ib.explain(*pairs_of(1)[0], embedded, calibration=folder, image_beta=0.7, steps=1)
    assert result.settings["image_beta"] == 0.7
    (result,) = m2ib.explain(*pairs_of(1)[0], embedded, calibration=folder, keep=0.9, steps=1)
    assert result.settings["keep"] == 0.9 and "image_beta" not in result.settings


def test_what_is_saved_is_loaded(found, folder):
    loaded = m2ib.Calibration.load(folder)
    assert replace(loaded, priors={}) == replace(found, priors={})
    for modality, prior in found.priors.items():
        np.testing.assert_array_equal(loaded.priors[modality].std, prior.std)


def test_another_model_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"Expected priors measured with .*Remedy: run `m2ib calibrate`") as refused:
        m2ib.explain(make_scene(0).image, "a cat", str(random_clip(tmp_path, image_layers=6)), calibration=folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["", "grid.csv", "calibration.yaml"])
def test_a_folder_that_is_none_is_refused(missing, folder, tmp_path):
    made = shutil.copytree(folder, tmp_path / "made") if missing else tmp_path / "nowhere"
    if missing:
        (made / missing).unlink()
    with pytest.raises(ValueError, match=r"^Expected a folder that `m2ib calibrate` wrote .*Remedy: ") as refused:
        m2ib.Calibration.load(made)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": pairs_of(7)}, "8 pairs or more but got 7"),
        ({"pairs": []}, "8 pairs or more but got 0"),
        ({"pairs": [(make_scene(0).image, " ")] * 8}, "empty"),
        ({"count": 7}, r"`count` to be in 8\.\.64"),
        ({"betas": ()}, "`betas`"),
        ({"betas": (0.0, 1.0)}, "`betas`"),
        ({"betas": (1.0, float("nan"))}, "`betas`"),
        ({"image_layers": [7]}, "`image_layer`"),
        ({"text_layers": ["first"]}, "`text_layer`"),
        ({"steps": 0}, "`steps`"),
        ({"image_layers": [], "text_layers": []}, "layers of the image or the text"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_anything_is_fitted(embedded, arguments, message):
    with pytest.raises(ValueError, match=message) as refused:
        calibrate(**{"pairs": pairs_of(8), "backbone": embedded, **arguments})
    assert "\n" not in str(refused.value) and "Remedy" in str(refused.value)


def test_pairs_are_taken_evenly_from_all_of_them():
    spread = calibration._spread(m2ib.PairDataModule(scenes=100, scene_seed=5), 12)
    assert [pair.id for pair in spread][::11] == ["scene-000005", "scene-000104"] and len(spread) == 12


@pytest.mark.slow
def test_the_verb_writes_a_folder_that_the_next_verb_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open("pairs.csv", "w", newline="") as file:
        csv.writer(file).writerow(["image", "text"])
        for seed, (image, text) in enumerate(pairs_of(8)):
            image.save(f"{seed}.png")
            csv.writer(file).writerow([f"{seed}.png", text])
    main([
        "calibrate", "--model.backbone=embedded", "--data.source=pairs.csv", "--image_layers=[2]", "--betas=[0.3,3]",
        "--text_layers=[embeddings,1]", "--steps=3", "--output=made",
    ])  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert "image_layer 2" in said and "text_layer" in said and "grid.png" in said
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "calibration.yaml", "grid.csv", "grid.png", "priors.safetensors"
    ]  # fmt: skip
    assert (tmp_path / "made" / "grid.png").stat().st_size > 5000
    main(["predict", "--config=made/calibration.yaml", "--data.scenes=1", "--model.steps=2", "--output=out"])
    (result,) = AttributionStore("out/attributions")
    chosen = yaml.safe_load((tmp_path / "made" / "calibration.yaml").read_text())["model"]["init_args"]
    assert result.settings["image_beta"] == chosen["image_beta"] and result.settings["image_layer"] == 2


@pytest.mark.slow
def test_on_other_scenes_the_choice_is_nearly_the_best_that_truth_would_make(embedded):
    layers, betas = {"image": [3, 6], "text": ["embeddings", 0]}, (0.3, 3.0, 10.0)
    found = calibrate(pairs_of(16, 100_000), embedded, layers["image"], layers["text"], betas)
    scenes = [make_scene(110_000 + i) for i in range(16)]
    batch = embedded.preprocess_pairs([Pair(str(i), s.image, s.text) for i, s in enumerate(scenes)])
    for modality, chosen in found.chosen.items():
        true = {}
        for layer in layers[modality]:
            for beta in betas:
                at = {f"{modality}_layer": layer, f"{modality}_beta": beta}
                results = M2IB(embedded, [modality], **at, noise_samples=2).attribute(batch)
                true[layer, beta] = np.mean([on_truth(a, s) for a, s in zip(results, scenes, strict=True)])
        assert true[chosen.layer, chosen.beta] > max(true.values()) - 0.05 > min(true.values()) + 0.2


def on_truth(a: m2ib.Attribution, scene: Scene) -> float:
    """The share of a map that lies on the named object, or on the words that name it."""
    if a.image_map is None:
        named = true_tokens(a, scene.spans)
        return float(a.text_map[named].sum() / a.text_map[~a.special].sum())
    heat = torch.from_numpy(a.heatmap(scene.mask.shape))
    return float(relevance_mass_accuracy(heat, torch.from_numpy(scene.mask)))


def test_what_is_not_said_is_as_documented():
    usual = {
        "backbone": "embedded", "image_layers": None, "text_layers": None, "betas": (0.1, 0.3, 1.0, 3.0, 10.0),
        "count": 32, "steps": 10, "noise_samples": 2, "seed": 0, "batch_size": 8,
    }  # fmt: skip
    known = inspect.signature(calibrate).parameters
    assert {name: known[name].default for name in usual} == usual


def test_of_all_pairs_eight_to_64_are_taken_and_all_where_there_are_fewer():
    data = m2ib.PairDataModule(scenes=70)
    assert [len(calibration._spread(data, count)) for count in (8, 64)] == [8, 64]
    assert [pair.id for pair in calibration._spread(m2ib.PairDataModule(scenes=9), 32)] == [
        f"scene-00000{i}" for i in range(9)
    ]
    for count in (7, 65):
        with pytest.raises(ValueError, match=rf"`count` to be in 8\.\.64 but got {count}\. Remedy: 32 are enough"):
            calibration._spread(data, count)


@pytest.mark.parametrize("betas", [(), (1.0, -1.0), (float("inf"),), (0.0,)])
def test_betas_are_finite_and_above_0(betas):
    with pytest.raises(ValueError, match="`betas` to be numbers above 0"):
        calibration._checked_betas(betas)
    assert calibration._checked_betas((3, 0.1, 3.0)) == [0.1, 3.0]


def test_layers_that_are_tried_go_from_the_beginning_to_the_end_each_once(embedded):
    assert calibration._layers(embedded, "image", [3, 0, "embeddings", 3, 1]) == ["embeddings", 0, 1, 3]
    assert calibration._layers(embedded, "image", None) == ["embeddings", 0, 2, 3, 4, 6]
    assert [spread_layers(depth, 0) for depth in (2, 3, 4)] == [
        {"embeddings", 0}, {"embeddings", 0, 1}, {"embeddings", 0, 1, 2}
    ]  # fmt: skip


def test_a_point_that_is_worth_just_enough_shows_what_the_model_uses(found):
    for faithfulness, said in ((0.1, False), (0.0999, True)):
        one = replace(found, chosen={"text": GridPoint("text", "embeddings", 0.25, 1.0, faithfulness)})
        assert ("NO LAYER" in str(one)) == said
    shown = replace(found, chosen={"image": GridPoint("image", 3, 10.0, 0.5, 0.4)})
    assert str(shown) == "image_layer 3, image_beta 10: faithfulness 0.40, similarity left 50%"


def test_a_calibration_is_not_changed_in_its_place(found):
    with pytest.raises(FrozenInstanceError):
        found.pairs = 3


def test_a_folder_is_made_with_those_above_it_written_over_and_says_what_was_measured(found, tmp_path):
    folder = tmp_path / "some" / "where"
    made = [found.save(folder) for _ in range(2)]
    assert made[0] == made[1] == m2ib.Calibration.arguments(folder)
    image, text = found.chosen["image"], found.chosen["text"]
    assert made[0] == {
        "modalities": ["image", "text"], "prior": str(folder / "priors.safetensors"), "image_layer": image.layer,
        "image_beta": image.beta, "text_layer": text.layer, "text_beta": text.beta,
    }  # fmt: skip
    model = yaml.safe_load((folder / "calibration.yaml").read_text())["model"]
    assert list(model) == ["class_path", "init_args"] and model["class_path"] == "m2ib_lightning.M2IB"
    assert list(model["init_args"]) == ["backbone", *made[0]] and model["init_args"]["backbone"] == "embedded"
    _, said = read_priors(folder / "priors.safetensors")
    assert said == {
        "weights": found.weights, "pairs": "8", "image_layer": str(image.layer), "text_layer": str(text.layer)
    }  # fmt: skip
    lines = (folder / "grid.csv").read_bytes().split(b"\r\n")
    assert lines[0] == b"modality,layer,beta,left,faithfulness" and len(lines) == 1 + 8 + 1 and lines[-1] == b""


def test_a_grid_has_every_layer_and_beta_of_each_tower_in_order(found):
    assert [point[:3] for point in found.grid] == [
        (modality, layer, beta)
        for modality, layers in (("image", [0, 3]), ("text", ["embeddings", 1]))
        for layer in layers
        for beta in (0.3, 3.0)
    ]
    assert found.pairs == 8 and all(found.chosen[m] in found.grid for m in ("image", "text"))


def test_what_is_left_counts_up_to_all_of_it_and_below_0_as_nothing():
    rng = np.random.default_rng(1)
    rows = np.column_stack([rng.uniform(0.2, 0.3, 30), np.tile([0.1, 0.5, 0.4, 0.4], (30, 1))])

    def leaving(left):
        changed = rows.copy()
        changed[:, 3] = 0.4 * left
        return changed

    better = calibration.clearly_better
    assert not better(leaving(1.5), rows) and not better(rows, leaving(1.5))
    assert not better(leaving(0.5), leaving(0.75)) and better(leaving(0.75), leaving(0.5))
    assert not better(leaving(-0.2), leaving(-0.9)) and better(leaving(0.1), leaving(-0.9))


def test_the_size_of_a_map_does_not_matter_to_what_is_drawn_from_it_and_an_empty_one_draws_nothing(embedded):
    (a,) = m2ib.explain(*pairs_of(1)[0], embedded, method="randommap", modalities=["text"])
    special = np.array([True, False, False, True])
    hidden = replace(a, text_map=np.array([9.0, 0.4, 0.1, 9.0]), special=special)
    for size in (1e-6, 0.1, 40.0):
        one = replace(a, text_map=np.array([0.0, 0.5 * size, 1.5 * size, 0.0]), special=special)
        assert calibration._rows("text", [one], [hidden])[0, 0] == pytest.approx(0.25 * 0.4 + 0.75 * 0.1)
    empty = replace(a, text_map=np.zeros(4), special=special)
    assert calibration._rows("text", [empty], [hidden])[0, 0] == 0


@pytest.mark.parametrize("broken", [None, np.array([0.0, np.nan, 1.0, 0.0])])
def test_a_pair_without_a_finite_map_is_named(embedded, broken):
    (a,) = m2ib.explain(*pairs_of(1)[0], embedded, method="randommap", modalities=["text"])
    a = replace(a, id="seven", text_map=broken, special=np.array([True, False, False, True]))
    with pytest.raises(ValueError, match=r"finite maps but the text of 'seven' has none\. Remedy: leave that pair out"):
        calibration._content(a, "text")


def test_equal_parts_and_pairs_that_are_not_similar_divide_by_nothing():
    with np.errstate(all="raise"):
        assert shares(np.array([0.1, 0.1, 0.1, 0.5, 0.0])) == (0, 0)
