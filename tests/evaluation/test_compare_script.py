import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from m2ib_lightning.data import make_scene

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def compare(monkeypatch):
    """The script's `main` as it is called from the command line."""
    monkeypatch.syspath_prepend(SCRIPTS)
    from compare import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
        main()

    return call


def test_methods_are_compared_on_a_file_of_pairs_with_truth(compare, tmp_path, capsys):
    rows = []
    for seed in range(2):
        scene = make_scene(900 + seed)
        scene.image.save(tmp_path / f"{seed}.png")
        Image.fromarray(scene.mask).save(tmp_path / f"mask{seed}.png")
        rows.append((f"{seed}.png", scene.caption, f"mask{seed}.png", json.dumps(scene.spans)))
    pd.DataFrame(rows, columns=["image", "text", "mask", "spans"]).to_csv(tmp_path / "truth.csv", index=False)
    wanted = ["--methods", "GradCAM", "--against", "GradCAM", "--metrics", "PointingGame", "TokenAUROC"]
    compare("--data.source", tmp_path / "truth.csv", *wanted, "--output", tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / "pairs.parquet")
    assert frame.groupby("method")["image/PointingGame"].count().to_dict() == {"random": 2, "GradCAM": 2}
    assert f"2 pairs of {tmp_path}" in capsys.readouterr().out and (tmp_path / "out" / "comparison.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "Nix"], "Expected --methods of random, .* but got Nix"),
        (["--metrics", "Nix"], "Expected --metrics of .* but got Nix"),
        (["--scenes", "0"], "Expected `scenes` to be at least 1"),
        (["--data.source", "nix.csv"], "nix.csv, which does not exist"),
    ],
)
def test_a_bad_argument_is_said_in_one_line(compare, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        compare(*arguments, "--output", tmp_path / "out")
    said = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and len(said) == 1
    assert re.search(message, said[0]) and "Remedy" in said[0]
    assert not (tmp_path / "out").exists()
