"""What the pages tell a reader to write in Python and YAML works as it stands there."""

import functools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from m2ib_lightning import AttributionStore, calibrate, explain, load_backbone
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import Saliency
from tests.pages import PAGES, block, blocks, name

# As the installed `m2ib` starts: the folder of the script is on the path, that of the call is not.
M2IB = "import sys; sys.path.remove(''); from m2ib_lightning.cli import main; main()"


RECIPES = {
    "class FewTokens": "m2ib_lightning/losses/README.md",
    "class Brightness": "m2ib_lightning/methods/README.md",
    "class StrongOnTruth": "m2ib_lightning/metrics/README.md",
    "class Sharpened": "m2ib_lightning/methods/README.md",
    "m2ib.compare": "m2ib_lightning/metrics/README.md",
    "class MyBackbone": "m2ib_lightning/backbones/README.md",
    "AttributionStore": "m2ib_lightning/store/README.md",
    "m2ib.calibrate": "m2ib_lightning/evaluation/README.md",
}
"""What is run here, by what its block of code holds."""


def recipe(holding: str) -> str:
    """A block of Python from its page."""
    return block(RECIPES[holding], "python", holding)


def test_every_block_of_python_of_a_page_is_run_here_or_as_a_doctest():
    for page in PAGES:
        for code in blocks(page, "python"):
            assert ">>> " in code or [RECIPES[holding] for holding in RECIPES if holding in code] == [name(page)], code


@pytest.mark.slow
def test_the_loss_term_of_its_page_reaches_the_command_by_its_class_path(tmp_path):
    (tmp_path / "my_terms.py").write_text(recipe("class FewTokens"))
    (tmp_path / "run.yaml").write_text(block(RECIPES["class FewTokens"], "yaml", "my_terms.FewTokens"))
    fast = ["--data.scenes=1", "--model.noise_samples=2", "--trainer.enable_progress_bar=false", "--output=out"]
    command = [sys.executable, "-c", M2IB, "fit", "--config=run.yaml", *fast]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = AttributionStore(tmp_path / "out" / "attributions")
    assert len(result.history["image/fewtokens"]) == 10
    assert result.history["image/fewtokens"][-1] < 0.2 * result.history["image/fewtokens"][0]


@pytest.mark.slow
def test_the_method_of_its_page_reaches_the_command_by_its_class_path(tmp_path):
    (tmp_path / "my_methods.py").write_text(recipe("class Brightness"))
    command = [
        sys.executable,
        "-c",
        M2IB,
        "predict",
        "--model=my_methods.Brightness",
        "--data.scenes=2",
        "--output=out",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    results = list(AttributionStore(tmp_path / "out" / "attributions"))
    assert [a.settings["method"] for a in results] == ["Brightness"] * 2
    assert results[0].image_map.std() > 0 and set(results[0].text_map) == {1.0}


@pytest.mark.slow
def test_the_metric_of_its_page_is_measured_by_what_follows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(recipe("class StrongOnTruth"), names)
    exec(recipe("m2ib.compare").replace("scenes=20", "scenes=4"), names)
    found = names["found"].frame.groupby("method")["image/StrongOnTruth"].mean()
    # Of these scenes M2IB has 0.67, the centre prior 0.07, uniform and random maps 0.05.
    assert len(found) == 4 and found["M2IB"] > 3 * found.drop("M2IB").max()


def test_a_store_is_read_as_its_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_scene(7).image.save("cat-7.png")
    found = explain("cat-7.png", "a cat", method="randommap", modalities=["image"])
    AttributionStore("runs/pairs/attributions").append([replace(a, id="cat-7") for a in found])
    names: dict[str, Any] = {}
    exec(recipe("AttributionStore"), names)
    assert len(names["store"]) == 1


@pytest.mark.slow
def test_a_model_is_calibrated_as_its_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = functools.partial(calibrate, image_layers=[2], text_layers=["embeddings"], betas=[0.1, 3], steps=2)
    scenes = [make_scene(seed) for seed in range(8)]
    names: dict[str, Any] = {"images": [s.image for s in scenes], "texts": [s.text for s in scenes]}
    exec(recipe("m2ib.calibrate").replace("m2ib.calibrate", "quick"), names | {"backbone": "embedded", "quick": quick})
    assert (tmp_path / "calibration" / "calibration.yaml").is_file()


def test_the_backbone_of_its_page_reads_a_model_as_the_package_does():
    names: dict[str, type[HuggingFaceBackbone]] = {}
    exec(recipe("class MyBackbone"), names)
    ours = load_backbone("embedded")
    assert isinstance(ours, HuggingFaceBackbone)
    mine = names["MyBackbone"](ours.model, ours.processor, "mine")
    batch = mine.preprocess([make_scene(0).image], ["a cat"])
    assert torch.equal(mine.embed("image", batch), ours.embed("image", batch))
    assert torch.equal(mine.embed("text", batch), ours.embed("text", batch))
    (result,) = explain(make_scene(0).image, "a cat", mine, steps=2)
    assert result.settings["backbone"] == "mine"


def test_the_target_of_its_page_is_what_a_pair_is_explained_against():
    made: dict[str, Any] = {}
    exec(recipe("class Sharpened"), made)
    backbone, scenes = load_backbone("embedded"), [make_scene(60_000 + i) for i in range(3)]
    batch = made["Sharpened"]().aim(backbone, backbone.preprocess([s.image for s in scenes], [s.text for s in scenes]))
    torch.testing.assert_close(batch.targets["image"].sum(0), torch.zeros(128), atol=1e-5, rtol=0)
    assert all(a.text_map is None for a in Saliency(backbone).attribute(batch))
