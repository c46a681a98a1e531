"""`m2ib compare` as it is typed."""

import json
import re

import pandas as pd
import pytest
from PIL import Image

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main
from m2ib_lightning.data import make_scene


def test_methods_are_compared_on_a_file_of_pairs_with_truth(tmp_path, capsys):
    rows = []
    for seed in range(2):
        scene = make_scene(900 + seed)
        scene.image.save(tmp_path / f"{seed}.png")
        Image.fromarray(scene.mask).save(tmp_path / f"mask{seed}.png")
        rows.append((f"{seed}.png", scene.text, f"mask{seed}.png", json.dumps(scene.spans)))
    pd.DataFrame(rows, columns=["image", "text", "mask", "spans"]).to_csv(tmp_path / "truth.csv", index=False)
    out = tmp_path / "out"
    main([
        "compare", "--methods=[GradCAM]", "--metrics=[PointingGame,TokenAUROC]", f"--output={out}",
        f"--data.source={tmp_path / 'truth.csv'}",
    ])  # fmt: skip
    frame = pd.read_parquet(out / "pairs.parquet")
    counts = frame.groupby("method")["image/PointingGame"].count().to_dict()
    assert counts == {"RandomMap": 2, "CentrePrior": 2, "UniformMap": 2, "GradCAM": 2}
    assert len(AttributionStore(out / "GradCAM" / "attributions")) == 2
    said, page = capsys.readouterr().out, (out / "comparison.html").read_text()
    assert f"2 pairs of {tmp_path}" in " ".join(said.split()) and "comparison.html" in said
    assert all(row[1] in page for row in rows) and "http" not in page


@pytest.mark.slow
def test_a_mapping_gives_labels_and_arguments(tmp_path, capsys):
    methods = "{ours: {class_path: Chefer}, cosine: {class_path: Chefer, init_args: {scale: 1}}}"
    main([
        "compare", f"--methods={methods}", "--metrics=[PointingGame]", "--data.scenes=1", "--against=cosine",
        f"--output={tmp_path}",
    ])  # fmt: skip
    assert "cosine minus" in capsys.readouterr().out
    (ours,), (cosine,) = (AttributionStore(tmp_path / label / "attributions") for label in ("ours", "cosine"))
    assert (ours.settings["scale"], cosine.settings["scale"]) == (100, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods=[Nix]"], "Nix"),
        (["--metrics=[Nix]"], "Nix"),
        (["--against=Nix"], "Expected --against of .*GradCAM but got Nix"),
        (["--data.scenes=0"], "Expected `scenes` to be at least 1"),
        (["--data.source=nix.csv"], "nix.csv, which does not exist"),
    ],
)
def test_a_bad_argument_is_said_in_one_line_before_anything_is_done(tmp_path, capsys, arguments, message):
    chosen = ["--methods=[GradCAM]", "--metrics=[PointingGame]", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as left:
        main(["compare", *chosen, *arguments])
    said = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and len(said) == 1
    assert re.search(message, said[0]) and not (tmp_path / "out").exists()
