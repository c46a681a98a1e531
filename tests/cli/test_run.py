"""The verbs of the Trainer: their defaults, the configurations that they take, and what they write."""

import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningModule

from m2ib_lightning import M2IB, AttributionStore, PairDataModule
from m2ib_lightning.cli import main
from m2ib_lightning.cli.run import M2IBCLI, EmbeddedHint, SaveConfig, default_output
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import RandomMap
from tests.made import failure

FAST = ["--model.steps=1", "--model.noise_samples=1", "--model.prior=unit"]


def configured(capsys, *words: str) -> dict:
    """The configuration that a command line comes to."""
    with pytest.raises(SystemExit) as left:
        main([*words, "--print_config"])
    assert left.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


OWN = {
    "fit": {"picture_style": "smooth", "picture_format": "png", "pictures": True},
    "predict": {
        "picture_style": "smooth", "picture_format": "png", "pictures": False, "maps": "float32", "part_pairs": 512,
        "part_seconds": 30.0, "retry_errors": False, "retry_changed": False,
    },
    "test": {"metrics": None, "protocol": "corrected"},
}  # fmt: skip


@pytest.mark.parametrize("verb", OWN)
def test_the_defaults_of_a_verb_are_those_that_are_documented(verb, capsys):
    found = configured(capsys, verb)
    trainer = found["trainer"]
    for name, value in {
        "devices": 1, "use_distributed_sampler": False, "logger": False, "enable_model_summary": False,
        "log_every_n_steps": 1, "precision": None, "max_epochs": None, "default_root_dir": None,
    }.items():  # fmt: skip
        assert trainer[name] == value and type(trainer[name]) is type(value), name
    assert found["model"]["class_path"] == "m2ib_lightning.M2IB"
    assert found["seed_everything"] is False
    stopping, checkpoint = found.pop("early_stopping", None), found.pop("checkpoint", None)
    assert (stopping is None, checkpoint is None) == (verb != "fit", verb != "fit")
    if verb == "fit":
        assert stopping["monitor"] == "loss/total" and stopping["check_on_train_epoch_end"] is True
        assert checkpoint["filename"] == "last" and checkpoint["enable_version_counter"] is False
        assert checkpoint["save_on_train_epoch_end"] is True and checkpoint["dirpath"] is None
    common = {"output", "gallery", "model", "data", "trainer", "seed_everything"}
    ways = {"fit": {"ckpt_path"}, "predict": {"return_predictions"}, "test": set()}[verb]
    own = {name: value for name, value in found.items() if name not in common | ways}
    assert own == OWN[verb] and set(found) == common | ways | set(own)
    assert found["output"] is found["gallery"] is found["data"]["phrases"] is None


@pytest.fixture
def filled_in(monkeypatch):
    """What a command line comes to when all that depends on other arguments is filled in."""

    class Seen(Exception):
        pass

    def look(cli):
        fill(cli)
        raise Seen(cli.config[cli.config["subcommand"]])

    fill = M2IBCLI.before_instantiate_classes
    monkeypatch.setattr(M2IBCLI, "before_instantiate_classes", look)

    def run(*words):
        with pytest.raises(Seen) as seen:
            main(list(words))
        return seen.value.args[0]

    return run


@pytest.mark.parametrize(("keep", "patience"), [("null", 4), ("0.9", sys.maxsize)])
def test_the_whole_has_the_patience_of_a_pair_unless_a_share_is_kept(keep, patience, filled_in):
    found = filled_in("fit", f"--model.keep={keep}", "--model.patience=4", "--output=out")
    assert found.early_stopping.patience == patience


def test_what_was_given_is_not_filled_in_and_what_was_not_is(filled_in):
    own = ["--trainer.default_root_dir=root", "--trainer.precision=64-true", "--trainer.max_epochs=2"]
    found = filled_in("fit", "--output=out", "--model.steps=3", "--checkpoint.dirpath=kept", *own)
    trainer = found.trainer
    assert (trainer.default_root_dir, trainer.precision, trainer.max_epochs) == ("root", "64-true", 2)
    assert (found.output, found.checkpoint.dirpath) == ("out", "kept")
    found = filled_in("predict", "--model.steps=3", "--trainer.accelerator=cpu", "--trainer.logger=CSVLogger")
    trainer = found.trainer
    assert (trainer.precision, trainer.max_epochs, found.return_predictions) == ("32-true", 3, False)
    assert re.fullmatch(r"outputs.predict-\d{8}-\d{6}", found.output)
    assert trainer.default_root_dir == trainer.logger.init_args.save_dir == found.output
    assert filled_in("test", "--model=RandomMap", "--output=out").trainer.max_epochs is None


def test_a_configuration_of_another_verb_gives_what_this_one_takes(capsys, tmp_path):
    given = {"model": {"class_path": "GradCAM"}, "pictures": True, "early_stopping": {"patience": 9}, "output": "there"}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(given))
    found = configured(capsys, "test", f"--config={tmp_path / 'fit.yaml'}")
    assert found["model"]["class_path"].endswith("GradCAM") and found["output"] == "there"
    assert "pictures" not in found and "early_stopping" not in found
    (tmp_path / "wrong.yaml").write_text("pictres: true\n")
    said = failure(capsys, "test", f"--config={tmp_path / 'wrong.yaml'}")
    assert "pictres" in said
    said = failure(capsys, "test", f"--config={tmp_path / 'gone.yaml'}")
    assert f"Expected a file as `config` but {tmp_path / 'gone.yaml'} does not exist." in said


def test_a_configuration_that_is_no_plain_yaml_is_said_in_a_line_of_at_most_120_of_its_characters(capsys, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"model: !!python/object:{'x' * 200} 1\n")
    said = failure(capsys, "fit", f"--config={path}")
    found = re.search(
        r"Expected a configuration as YAML in (.*) but got (.*)\. Remedy: correct it there; `class_path`", said
    )
    assert found[1] == str(path) and len(found[2]) == 120 and found[2].startswith("could not determine a constructor")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder where a pair was fitted into a folder that was not there, with a logger."""
    folder = tmp_path_factory.mktemp("fitted")
    make_scene(7, ("cat", "key")).image.save(folder / "cat.png")
    pair = [f"--data.image={folder / 'cat.png'}", "--data.text=a cat"]
    quick = [*FAST, "--gallery=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    main(["fit", *pair, *quick, f"--output={folder / 'one' / 'two'}", "--trainer.logger=CSVLogger"])
    return folder / "one" / "two"


def test_what_depends_on_other_arguments_is_filled_in_and_saved(fitted):
    saved = yaml.safe_load((fitted / "config.yaml").read_text())
    trainer = saved["trainer"]
    assert trainer["default_root_dir"] == saved["output"] == str(fitted)
    assert trainer["precision"] == "32-true" and trainer["max_epochs"] == 1
    assert saved["checkpoint"]["dirpath"] == str(fitted / "checkpoints")
    assert (fitted / "checkpoints" / "last.ckpt").is_file() and (fitted / "pictures" / "cat.png").is_file()
    logged = list(fitted.rglob("hparams.yaml"))
    assert len(logged) == 1 and yaml.unsafe_load(logged[0].read_text())["output"] == str(fitted)
    assert len(AttributionStore(fitted / "attributions")) == 1


@pytest.fixture
def predicted(tmp_path, capsys):
    """What a prediction prints that is made twice into one folder."""
    words = ["predict", "--data.scenes=2", "--model=RandomMap", f"--output={tmp_path}", "--gallery=false"]
    main(words)
    main(words)
    return tmp_path, capsys.readouterr()


def test_a_prediction_is_made_again_with_its_line_and_without_pictures(predicted):
    folder, said = predicted
    assert len(AttributionStore(folder / "attributions")) == 2 and not (folder / "pictures").exists()
    assert said.err.count("2 of 2 pairs") == 1  # nothing is left of the second time
    assert "drawings of" not in said.out  # they are drawings
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    assert recorded["return_predictions"] is False


@pytest.mark.parametrize(
    ("verb", "bar", "names"),
    [
        ("fit", "true", ["ResultWriter", "EmbeddedHint", "OutputSummary"]),
        ("predict", "null", ["PredictionWriter", "PairProgress", "EmbeddedHint", "OutputSummary"]),
        ("test", "true", ["PairProgress", "ScoreWriter", "EmbeddedHint", "OutputSummary"]),
        ("test", "false", ["ScoreWriter", "EmbeddedHint", "OutputSummary"]),
    ],
)
def test_what_writes_the_results_is_there_and_a_line_of_progress_unless_it_is_turned_off(verb, bar, names, monkeypatch):
    class Seen(Exception):
        pass

    def look(cli, **arguments):
        raise Seen([type(callback).__name__ for callback in make(cli, **arguments).callbacks])

    make = M2IBCLI.instantiate_trainer
    monkeypatch.setattr(M2IBCLI, "instantiate_trainer", look)
    with pytest.raises(Seen) as seen:
        main([verb, "--data.scenes=1", "--output=out", f"--trainer.enable_progress_bar={bar}"])
    found = [name for name in seen.value.args[0] if name in (*names, "PairProgress")]
    assert found == names


@pytest.mark.parametrize(("verb", "more"), [("fit", FAST), ("test", ["--model=RandomMap"])])
def test_only_predictions_are_shared_among_processes(verb, more, tmp_path, capsys):
    two = ["--trainer.devices=2", "--trainer.accelerator=cpu", "--data.scenes=2", f"--output={tmp_path}"]
    said = failure(capsys, verb, *two, *more)
    assert f"Expected one process for `m2ib {verb}` but got 2. Remedy: --trainer.devices 1, or `m2ib predict`" in said


class Logger:
    def __init__(self):
        self.logged = []

    def log_hyperparams(self, settings):
        self.logged.append(settings)


def test_the_configuration_is_written_by_one_process_once_over_that_of_an_earlier_run(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--output", type=str)
    folder, logger = tmp_path / "a" / "b", Logger()
    config = Namespace(output=str(folder))
    SaveConfig(parser, config).setup(SimpleNamespace(is_global_zero=False, loggers=[logger]), None, "fit")
    assert not folder.exists() and logger.logged == []
    first, trainer = SaveConfig(parser, config), SimpleNamespace(is_global_zero=True, loggers=[logger])
    first.setup(trainer, None, "fit")
    (folder / "config.yaml").write_text("output: other\n")
    first.setup(trainer, None, "fit")
    assert (folder / "config.yaml").read_text() == "output: other\n" and logger.logged == [{"output": str(folder)}]
    SaveConfig(parser, config).setup(trainer, None, "fit")
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"output": str(folder)}
    assert len(logger.logged) == 2


HINT = """\
The embedded model knows drawings of 66 objects (airplane, anchor, apple, balloon, ...) and little of photographs.
For a real CLIP add: --model.backbone openai/clip-vit-base-patch32
"""


def test_only_who_asks_the_embedded_model_about_other_pictures_is_told_what_it_knows(capsys, tmp_path):
    pairs = PairDataModule(image=str(tmp_path / "a.png"), text="a cat")

    def said(method=None, data=pairs, first=True):
        trainer = SimpleNamespace(datamodule=data, is_global_zero=first)
        EmbeddedHint().setup(trainer, method or RandomMap("embedded"), "fit")
        return capsys.readouterr().out

    assert said() == HINT and said(M2IB("embedded")) == HINT
    assert said(RandomMap("openai/clip-vit-base-patch32")) == ""
    assert said(data=PairDataModule(scenes=1)) == ""
    assert said(data=None) == ""
    assert said(LightningModule()) == ""
    assert said(first=False) == ""


@pytest.fixture
def processes(monkeypatch):
    """Set how many processes there are, by one or the other name."""
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "M2IB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)

    def start(**counts):
        for name, value in counts.items():
            monkeypatch.setenv(name, value)

    return start


@pytest.mark.parametrize("counts", [{}, {"WORLD_SIZE": "1"}, {"SLURM_NTASKS": "1"}, {"WORLD_SIZE": ""}])
def test_the_folder_of_one_process_is_named_by_verb_and_time(counts, processes):
    processes(**counts, M2IB_OUTPUT="earlier")
    assert re.fullmatch(r"outputs/fit-\d{8}-\d{6}", default_output("fit").replace("\\", "/"))


@pytest.mark.parametrize("counts", [{"WORLD_SIZE": "2"}, {"SLURM_NTASKS": "2"}, {"WORLD_SIZE": "3"}])
def test_several_processes_share_the_folder_of_the_first_or_need_a_name(counts, processes):
    processes(**counts)
    with pytest.raises(ValueError, match="Expected --output where processes share the work"):
        default_output("fit")
    processes(M2IB_OUTPUT="outputs/fit-of-the-first")
    assert default_output("fit") == "outputs/fit-of-the-first"
