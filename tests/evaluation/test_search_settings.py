import sys
from pathlib import Path

import pandas as pd
import pytest

from m2ib_lightning import load_backbone
from m2ib_lightning.data import make_scene


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


def test_a_setting_is_measured_on_scenes_with_what_it_takes(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    from search_settings import evaluate

    scenes = [make_scene(seed) for seed in range(3)]
    found = evaluate(load_backbone("embedded"), scenes, {"steps": 2, "noise_samples": 2}, batch=2)
    assert 0 < found["seconds"] < 60
    assert all(found[f"{name} low"] <= found[name] <= found[f"{name} high"] for name in ("clean", "image mass"))
