import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import m2ib_lightning as m2ib
from m2ib_lightning.data import make_scene
from m2ib_lightning.evaluation.suggest import CurvePoint, choose, gathered_on, suggestion
from m2ib_lightning.metrics import pointing_game, relevance_mass_accuracy

LAYERS, BETAS, COST = (0, 2), (0.3, 3.0, 10.0), {"noise_samples": 2, "antithetic": True, "tolerance": None}


@pytest.fixture(scope="module")
def embedded():
    return m2ib.load_backbone("embedded")


def point(layer, beta, tokens, relevance, modality="image"):
    return CurvePoint(modality, layer, beta, 100.0, tokens, relevance, 0.4)


def test_the_most_gathered_map_at_which_the_model_agrees_is_chosen():
    points = [point(0, 0.1, 9, 0.6), point(0, 1, 5, 0.37), point(0, 3, 2, 0.35), point(2, 1, 6, 0.5)]
    assert choose(points) == points[1]
    assert choose(points[2:3]) == points[2] and not points[2].agrees


def test_a_tower_that_never_agrees_is_said_to_not_work():
    found = suggestion([point(0, 1, 2, 0.1), point(2, 1, 2, 0.2), point("embeddings", 1, 2, 0.4, "text")], {"seed": 1})
    assert found.works == {"image": False, "text": True}
    assert found.arguments == {"image_layer": 2, "image_beta": 1, "text_layer": "embeddings", "text_beta": 1, "seed": 1}
    assert "NO LAYER" in str(found).split("\n\n")[0] and "NO LAYER" not in str(found).split("\n\n")[1]
    assert list(found.frame()["relevance"]) == [0.1, 0.2, 0.4]


def test_pairs_that_do_not_match_are_no_ground_for_a_suggestion():
    assert not CurvePoint("image", 0, 1.0, 1.0, 1.0, 0.5, -0.1).agrees


def test_how_many_values_a_map_is_gathered_on():
    maps = torch.tensor([[5.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(gathered_on(maps), torch.tensor([1.0, 2.0, 1.0]))


@pytest.mark.slow
def test_the_suggestion_is_nearly_as_good_as_the_best_that_truth_would_choose(embedded):
    scenes = [make_scene(31_000 + i) for i in range(16)]
    images, texts = [s.image for s in scenes], [s.caption for s in scenes]
    found = m2ib.suggest_settings(images, texts, embedded, {"image": LAYERS}, BETAS)
    truth = torch.stack([torch.from_numpy(s.mask) for s in scenes])

    def scores(layer, beta):
        results = m2ib.explain(
            images, texts, embedded, modalities=["image"], image_layer=layer, image_beta=beta, **COST
        )
        maps = torch.stack([torch.from_numpy(a.heatmap(truth.shape[1:])) for a in results])
        point = next(p for p in found.points if (p.layer, p.beta) == (layer, beta))
        assert sum(a.image_score for a in results) / len(results) == pytest.approx(point.relevance, abs=1e-4)
        return float(relevance_mass_accuracy(maps, truth).mean()), float(pointing_game(maps, truth).mean())

    grid = {(layer, beta): scores(layer, beta) for layer in LAYERS for beta in BETAS}
    mass, pointing = grid[found.arguments["image_layer"], found.arguments["image_beta"]]
    assert found.works == {"image": True}
    assert mass > max(m for m, _ in grid.values()) - 0.1 > min(m for m, _ in grid.values())
    assert pointing > max(p for _, p in grid.values()) - 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betas": (1.0,)}, "`betas`"),
        ({"betas": (0.0, 1.0)}, "`betas`"),
        ({"betas": (1.0, float("nan"))}, "`betas`"),
        ({"layers": {}}, "`layers`"),
        ({"layers": {"image": []}}, "`layers`"),
        ({"layers": {"sound": [0]}}, "`layers`"),
        ({"layers": {"image": [7]}}, "`image_layer`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"prior": "mine.safetensors"}, "`prior`"),
        ({"steps": 0}, "`steps`"),
        ({"texts": " "}, "empty"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(embedded, arguments, message):
    with pytest.raises(ValueError, match=message) as refused:
        m2ib.suggest_settings(**{"images": make_scene(0).image, "texts": "a cat", "backbone": embedded, **arguments})
    assert "\n" not in str(refused.value) and "Remedy" in str(refused.value)


def test_a_search_is_planned_around_the_default():
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    from search_settings import plan

    default = {"image_beta": 3.0, "steps": 10}
    found = plan({"antithetic": True}, {"image_beta": [1, 3], "steps": [5]}, default)
    assert [(row["image_beta"], row["steps"], row["modalities"]) for row in found] == [
        (3.0, 10, ["image", "text"]), (1, 10, ["image"]), (3.0, 5, ["image", "text"])
    ]  # fmt: skip
    with pytest.raises(ValueError, match="colour"):
        plan({}, {"colour": [1]}, default)


def test_rows_of_a_search_are_found_again_in_its_file(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    from search_settings import append, varied

    default = {"image_layer": 2, "image_beta": 3.0}
    for layer, beta in ((2, 3.0), (2, 0.1), (2, 10), ("embeddings", 3.0)):
        append(tmp_path / "settings.csv", {"image_layer": layer, "image_beta": beta, "seconds": 0.1})
    rows = pd.read_csv(tmp_path / "settings.csv")
    assert list(varied(rows, "image_beta", [0.1, 10], default).index) == ["0.1", "3", "10"]
    assert list(varied(rows, "image_layer", ["embeddings", 2], default).index) == ["emb.", "2"]
