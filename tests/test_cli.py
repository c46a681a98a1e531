import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from m2ib_lightning import AttributionStore
from m2ib_lightning import methods as m2ib_methods
from m2ib_lightning.cli import main, verbs
from m2ib_lightning.data import make_scene
from tests.callbacks.offline_run import read_run
from tests.made import failure

CONFIGS = Path(__file__).parent.parent / "configs"
FAST = ["--model.steps=2", "--model.noise_samples=2", "--trainer.enable_progress_bar=false"]


def picture(path: Path, **scene) -> str:
    make_scene(7, **{"objects": ("cat", "key"), **scene}).image.save(path)
    return str(path)


# Those are for `wandb sweep` and `m2ib compare`, tested below, `m2ib test`, tested in tests/evaluation, and a script.
OTHERS = {CONFIGS / name for name in ("sweep.yaml", "compare.yaml", "evaluate.yaml", "search.yaml")}
RUNS = sorted(set(CONFIGS.glob("*.yaml")) - OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize("config", RUNS, ids=lambda path: path.stem)
def test_every_configuration_runs(config, tmp_path, capsys):
    verb = "predict" if config.stem == "predict" else "fit"
    main([verb, f"--config={config}", "--data.scenes=2", f"--output={tmp_path}", *FAST])
    assert len(AttributionStore(tmp_path / "attributions")) == 2
    assert "scene-000000" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]["steps"] == 2


@pytest.mark.slow
def test_every_method_of_the_package_is_compared_by_its_configuration(tmp_path, capsys):
    main(["compare", f"--config={CONFIGS / 'compare.yaml'}", "--data.scenes=1", f"--output={tmp_path}"])
    methods = yaml.safe_load((CONFIGS / "compare.yaml").read_text())["methods"]
    found = pd.read_parquet(tmp_path / "pairs.parquet")
    controls = {"RandomMap", "CentrePrior", "UniformMap"}
    assert set(found["method"]) == {*methods, *controls}
    package = {name for name in m2ib_methods.__all__ if isinstance(getattr(m2ib_methods, name), type)}
    assert {m["class_path"] for m in methods.values()} | controls == package - {"AttributionMethod", "Baseline"}


@pytest.mark.slow
def test_the_command_of_a_sweeps_agent_runs_with_its_parameters_as_given(tmp_path, monkeypatch):
    from wandb.sdk.launch.sweeps import utils as agent

    sweep = yaml.safe_load((CONFIGS / "sweep.yaml").read_text())
    chosen = {name: p["values"][-1] if "values" in p else p["max"] for name, p in sweep["parameters"].items()}
    parts = agent.create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    parts |= {"program": [sweep["program"]], "env": ["/usr/bin/env"]}
    words = [parts[w[2:-1]] if w.startswith("${") else [w] for w in agent.create_sweep_command(sweep["command"])]
    env, program, *arguments = [word for part in words for word in part]
    assert (env, program) == ("/usr/bin/env", "m2ib")
    monkeypatch.chdir(CONFIGS.parent)
    main([*arguments, "--data.scenes=1", "--model.steps=1", f"--output={tmp_path}"])
    used = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]
    assert chosen and chosen == {f"model.{name}": used[name] for name in used if f"model.{name}" in chosen}
    rows = read_run(tmp_path).rows
    assert [row[sweep["metric"]["name"]] >= 0 for row in rows if sweep["metric"]["name"] in row] == [True]


def test_a_pair_from_the_command_line_is_explained_with_a_picture(tmp_path, capsys):
    image = picture(tmp_path / "cat.png")
    main(["fit", f"--data.image={image}", "--data.text=a cat", f"--output={tmp_path / 'out'}", *FAST])
    result = AttributionStore(tmp_path / "out" / "attributions")["cat"]
    assert result.source == image and result.steps == 2
    with Image.open(tmp_path / "out" / "pictures" / "cat.png") as drawn:
        assert drawn.width > 500
    out = capsys.readouterr().out
    assert out.startswith("The embedded model knows drawings of 66 objects")
    assert "openai/clip-vit-base-patch32" in out


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_file_of_pairs_is_explained(suffix, tmp_path):
    picture(tmp_path / "cat.png")
    rows = [{"image": "cat.png", "text": "a cat"}, {"image": "cat.png", "text": "a key"}]
    file = tmp_path / f"pairs.{suffix}"
    if suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        between = "," if suffix == "csv" else "\t"
        file.write_text("\n".join(between.join(cells) for cells in [rows[0], *(r.values() for r in rows)]))
    main(["predict", f"--data.source={file}", f"--output={tmp_path / 'out'}", *FAST])
    assert [a.text for a in AttributionStore(tmp_path / "out" / "attributions")] == ["a cat", "a key"]


@pytest.mark.slow
def test_the_saved_configuration_gives_the_same_numbers_again(tmp_path):
    main(["fit", "--data.scenes=2", "--model.seed=5", f"--output={tmp_path / 'a'}", *FAST])
    main(["fit", f"--config={tmp_path / 'a' / 'config.yaml'}", f"--output={tmp_path / 'b'}"])
    for a, b in zip(*(AttributionStore(tmp_path / name / "attributions") for name in "ab"), strict=True):
        np.testing.assert_array_equal(a.image_map, b.image_map)
        np.testing.assert_array_equal(a.text_map, b.text_map)


@pytest.mark.slow
def test_early_stopping_ends_a_fit_and_is_reported(tmp_path):
    main(["fit", "--data.scenes=1", "--early_stopping.stopping_threshold=100", f"--output={tmp_path}", *FAST])
    result = next(iter(AttributionStore(tmp_path / "attributions")))
    assert (result.steps, result.stop_reason) == (1, "converged")


@pytest.mark.parametrize(("keep", "steps"), [("null", 3), ("0.9", 6)])
def test_a_fit_that_gets_no_better_ends_after_the_patience_of_the_method_unless_a_share_is_kept(keep, steps, tmp_path):
    never_better = ["--early_stopping.min_delta=1e6", "--model.patience=2", "--model.tolerance=null"]
    fast = ["--model.noise_samples=2", "--trainer.enable_progress_bar=false", f"--output={tmp_path}"]
    main(["fit", "--data.scenes=1", f"--model.keep={keep}", *never_better, "--model.steps=6", *fast])
    assert [a.steps for a in AttributionStore(tmp_path / "attributions")] == [steps]


@pytest.mark.slow
def test_a_share_can_be_kept_and_no_rise_of_the_loss_ends_that_fit(tmp_path):
    fast = ["--model.noise_samples=2", "--trainer.enable_progress_bar=false", f"--output={tmp_path}"]
    main(["fit", "--data.scenes=1", "--model.keep=0.9", "--model.patience=1", "--model.steps=8", *fast])
    result = next(iter(AttributionStore(tmp_path / "attributions")))
    assert (result.steps, result.stop_reason) == (8, "max_steps")
    assert min(result.image_score, result.text_score) >= 0.9 * result.score
    assert result.settings["keep"] == 0.9 and len(result.history["image/beta"]) == 8


def test_the_trainers_epochs_are_the_steps_of_a_fit(tmp_path):
    main(["fit", "--data.scenes=1", "--trainer.max_epochs=4", f"--output={tmp_path}", *FAST])
    result = next(iter(AttributionStore(tmp_path / "attributions")))
    assert (result.steps, result.stop_reason) == (4, "max_steps")
    assert result.settings["steps"] == 4


@pytest.mark.slow
def test_no_result_is_written_over(tmp_path, capsys):
    main(["fit", "--data.scenes=1", f"--output={tmp_path}", *FAST])
    message = failure(capsys, "fit", "--data.scenes=1", f"--output={tmp_path}", *FAST)
    assert "no earlier results" in message and "another --output" in message


def damaged(folder: Path) -> str:
    whole = Path(picture(folder / "whole.png")).read_bytes()
    (folder / "damaged.png").write_bytes(whole[: len(whole) // 2])
    return str(folder / "damaged.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.image=missing.png", "--data.text=a cat"], r"missing.png"),
        (["--data.image=DAMAGED", "--data.text=a cat"], r"damaged.png"),
        (["--data.image=NOTE", "--data.text=a cat"], r"note.txt"),
        (["--data.image=CAT", "--data.text= "], r"empty"),
        (["--data.source=TABLE", "--data.text_column=words"], r"'image', 'caption'"),
        (["--data.scenes=1", "--model.image_layer=7"], r"0\.\.6 but got 7"),
        (["--data.scenes=1", "--model.text_layer=-1"], r"`text_layer`"),
        (["--data.scenes=1", "--model.backbone=nobody/nothing"], r"hub.*'embedded'"),
        (["--data.scenes=1", "--model.backbone=EMPTY"], r"no config\.json"),
        (["--data.scenes=1", "--data.batch_size=0"], r"`batch_size`"),
        (["--data.scenes=1", "--model.steps=0"], r"`steps`"),
        (["--data.scenes=1", "--model.prior=nothing.safetensors"], r"'unit', 'measured'"),
        (["--data.scenes=1", "--model.image_layer=middle"], r"image_layer` to be one of int.*but got middle"),
        (
            ["--data.scenes=1", "--model.image_bta=1"],
            r"argument of M2IB but got `model.image_bta`.*did you mean image_beta\?",
        ),
        (["--data.scenes=1", "--model.read_out=bottlenek"], r"got bottlenek\. Remedy: did you mean bottleneck\?"),
        (["--data.scenes=one"], r"`data\.scenes`.*one"),
        (["--dat.scenes=1"], r"--dat\.scenes.*did you mean --data\.scenes\?"),
        (["--data.scenes=1", "--model=RandomMap"], r"is fitted but got RandomMap.*m2ib predict"),
    ],
)
def test_bad_input_is_named_in_one_line_and_nothing_is_written(arguments, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "table.csv").write_text("image,caption\ncat.png,a cat\n")
    names = {
        "DAMAGED": damaged(tmp_path), "NOTE": str(tmp_path / "note.txt"), "CAT": picture(tmp_path / "cat.png"),
        "TABLE": str(tmp_path / "table.csv"), "EMPTY": str(tmp_path / "empty"),
    }  # fmt: skip
    for name, value in names.items():
        arguments = [a.replace(f"={name}", f"={value}") for a in arguments]
    said = failure(capsys, "fit", *arguments, f"--output={tmp_path / 'out'}")
    assert re.search(message, said), said
    assert not (tmp_path / "out" / "attributions").exists()


def test_a_typed_test_measures_the_metrics_and_the_protocol_that_it_names(tmp_path, capsys):
    main([
        "test", "--model=RandomMap", "--data.scenes=2", "--data.scene_kind=twice", "--protocol=as_released",
        "--metrics=[PointingGame,m2ib_lightning.metrics.ConfidenceDrop]", "--metrics.modality=text",
        f"--output={tmp_path}", "--trainer.enable_progress_bar=false",
    ])  # fmt: skip
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    assert {name for name in frame if "/" in name} == {"image/PointingGame", "text/ConfidenceDrop"}
    assert set(frame["protocol"]) == {"as_released"}
    assert frame.loc[frame["method"] == "RandomMap", "image/PointingGame"].isin([0, 1]).all()
    out = capsys.readouterr().out
    assert "protocol: as_released" in out and "InsertionAUC" not in out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--metrics=[PointedGame]", "`metrics`.*PointedGame"),
        ("--protocol=paper", "`protocol`.*paper"),
        ("--data.scene_kind=dark", "`data.scene_kind`.*dark"),
    ],
)
def test_what_a_test_does_not_know_is_refused_in_one_line(argument, message, tmp_path, capsys):
    said = failure(capsys, "test", "--model=RandomMap", argument, f"--output={tmp_path / 'out'}")
    assert re.search(f"Expected {message}.* Remedy: ", said), said
    assert not (tmp_path / "out").exists()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints that ends there."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_printed_configuration_and_the_help_of_a_method_are_complete(capsys):
    config = yaml.safe_load(printed(capsys, "fit", "--print_config"))
    assert config["model"]["init_args"]["image_beta"] == 3 and config["early_stopping"]["monitor"] == "loss/total"
    assert "--model.window" in printed(capsys, "predict", "--model.help=Occlusion")


@pytest.mark.slow
def test_the_printed_configuration_has_one_learning_rate_and_one_patience(capsys, tmp_path):
    said = printed(capsys, "fit", "--print_config")
    assert re.findall(r"\b(lr|patience): (\S+)", said) == [("lr", "1.0"), ("patience", "3")]
    main(["fit", "--data.scenes=1", f"--output={tmp_path}", "--model.optimizer=SGD", "--model.lr=0.5", *FAST])
    saved = (tmp_path / "config.yaml").read_text()
    assert "torch.optim.SGD" in saved and re.findall(r"\blr: (\S+)", saved) == ["0.5"]


def test_help_of_a_verb_shows_what_is_the_packages_own_before_the_trainers(capsys):
    help = printed(capsys, "fit", "--help")
    places = [
        help.index(f"  {option} ")
        for option in ("--output", "--model", "--model.image_beta", "--data.source", "--early_stopping.monitor",
                       "--trainer.accelerator")
    ]  # fmt: skip
    assert places == sorted(places)
    assert "usage: m2ib fit [options]\n" in help and "GradCAM" in help and "--metrics" not in help


def test_the_help_of_the_command_names_every_verb_and_three_examples(capsys):
    main(["--help"])
    help = capsys.readouterr().out
    for verb in ("fit", "predict", "test", *verbs.names()):
        (line,) = re.findall(rf"^  {verb} +(\S.*)$", help, re.MULTILINE)
        assert line.endswith(".") and line.count(". ") == 0
    examples = re.findall(r"^  m2ib (\w+) ", help, re.MULTILINE)
    assert examples == ["fit", "predict", "test"]
    main([])
    assert capsys.readouterr().out == help


@pytest.mark.parametrize(
    ("verb", "option", "taker"),
    [
        ("fit", "--metrics=[PointingGame]", "test"), ("fit", "--retry_errors=true", "predict"),
        ("predict", "--early_stopping.min_delta=2", "fit"), ("test", "--pictures=true", "fit"),
        ("predict", "--ckpt_path=last.ckpt", "fit"),
    ],
)  # fmt: skip
def test_an_option_of_another_verb_is_refused_and_that_verb_named(verb, option, taker, tmp_path, capsys):
    said = failure(capsys, verb, option, f"--output={tmp_path / 'out'}")
    assert f"option of `m2ib {verb}`" in said and f"`m2ib {taker}`" in said


def test_a_configuration_of_a_fit_serves_a_prediction(tmp_path):
    main(["predict", f"--config={CONFIGS / 'quickstart.yaml'}", "--data.scenes=1", f"--output={tmp_path}", *FAST])
    assert "early_stopping" not in yaml.safe_load((tmp_path / "config.yaml").read_text())


MINE = """
from m2ib_lightning.losses import LossTerm
class Mine(LossTerm): ...
class Other: ...
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=Baseline"], r"known AttributionMethod but got Baseline\. Remedy: choose one of AttentionRollout, "),
        (["--model=GradCam"], r"known AttributionMethod but got GradCam\. Remedy: did you mean GradCAM\?"),
        (["--model.imagebeta=3"], r"`model\.imagebeta`\. Remedy: did you mean image_beta\?"),
        (["--model.loss_terms=[Relevanse]"], r"known LossTerm but got Relevanse\. Remedy: did you mean Relevance\?"),
        (["--trainer.callbacks=MaskLoger"], r"did you mean MaskLogger\?"),
        (["--model.loss_terms=[terms_of_mine.Mime]"], r"terms_of_mine\.py has no class Mime\. .*did you mean Mine\?"),
        (["--model.loss_terms=[terms_of_yours.Mine]"], r"there is no terms_of_yours\.py here"),
        (["--model.loss_terms=[terms_of_mine.Other]"], r"to be a LossTerm but terms_of_mine\.Other is none"),
        (["--model=terms_of_mine.Mine"], r"to be an AttributionMethod but terms_of_mine\.Mine is a LossTerm"),
        (["--model.steps=three"], r"`model\.steps` to be a whole number but got three"),
        (["--image=cat.png"], r"but got --image\. Remedy: did you mean --data\.image\?"),
        (["--backbone=embedded"], r"did you mean --model\.backbone\?"),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one(arguments, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "terms_of_mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    said = failure(capsys, "fit", *arguments)
    assert re.search(message, said), said


def test_a_wrong_verb_gets_the_nearest_right_one(capsys):
    assert "did you mean predict?" in failure(capsys, "predcit", "--data.scenes=1")
    assert "fit, predict, test" in failure(capsys, "explode")


def test_a_file_of_pairs_that_is_not_there_is_named_before_anything_is_said_of_the_model(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--data.source=nofile.csv", f"--output={tmp_path}"])
    said = capsys.readouterr()
    assert said.out == "" and "nofile.csv, which does not exist" in said.err


@pytest.mark.slow
def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "m2ib_lightning", "--version"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and "m2ib" in done.stdout
