"""What the README tells a reader to type for a piece of their own works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import torch

from m2ib_lightning import AttributionStore, PairDataModule, explain, load_backbone
from m2ib_lightning.backbones.huggingface import HuggingFaceBackbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.evaluation import compare
from m2ib_lightning.methods import RandomMap
from m2ib_lightning.metrics import PairMetric

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")

# As the installed `m2ib` starts: the folder of the script is on the path, that of the call is not.
M2IB = "import sys; sys.path.remove(''); from m2ib_lightning.cli import main; main()"


def block(kind: str, holding: str) -> str:
    """The one block of code of the README that holds something."""
    (found,) = (code for code in re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) if holding in code)
    return found


def test_the_loss_term_of_the_readme_reaches_the_command_by_its_class_path(tmp_path):
    (tmp_path / "my_terms.py").write_text(block("python", "class FewTokens"))
    (tmp_path / "run.yaml").write_text(block("yaml", "my_terms.FewTokens"))
    fast = ["--data.scenes=1", "--model.noise_samples=2", "--trainer.enable_progress_bar=false", "--output=out"]
    command = [sys.executable, "-c", M2IB, "fit", "--config=run.yaml", *fast]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = AttributionStore(tmp_path / "out" / "attributions")
    assert len(result.history["image/fewtokens"]) == 10
    assert result.history["image/fewtokens"][-1] < 0.2 * result.history["image/fewtokens"][0]


def test_the_method_of_the_readme_reaches_the_command_by_its_class_path(tmp_path):
    (tmp_path / "my_methods.py").write_text(block("python", "class Brightness"))
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


def test_the_metric_of_the_readme_is_measured(tmp_path):
    names: dict[str, type[PairMetric]] = {}
    exec(block("python", "class CoveredShare"), names)
    data = PairDataModule(scenes=2)
    found = compare({"random": RandomMap("embedded")}, data, tmp_path, metrics=[names["CoveredShare"]()])
    values = found.frame["image/CoveredShare"]
    assert len(values) == 2 and values.between(0.05, 0.95).all()


def test_the_backbone_of_the_readme_reads_a_model_as_the_package_does():
    names: dict[str, type[HuggingFaceBackbone]] = {}
    exec(block("python", "class MyBackbone"), names)
    ours = load_backbone("embedded")
    assert isinstance(ours, HuggingFaceBackbone)
    mine = names["MyBackbone"](ours.model, ours.processor, "mine")
    batch = mine.preprocess([make_scene(0).image], ["a cat"])
    assert torch.equal(mine.embed("image", batch), ours.embed("image", batch))
    assert torch.equal(mine.embed("text", batch), ours.embed("text", batch))
    (result,) = explain(make_scene(0).image, "a cat", mine, steps=2)
    assert result.settings["backbone"] == "mine"
