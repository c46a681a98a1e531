"""`m2ib train-reader`, with a training that is none."""

import functools
from types import SimpleNamespace

import pytest
import yaml

from m2ib_lightning import M2IB, PairDataModule
from m2ib_lightning.cli import main
from m2ib_lightning.cli.verbs import train_reader as verb
from m2ib_lightning.methods.reader_training import ReaderTraining
from tests.made import failure


class Seen(Exception):
    pass


def test_the_trainer_is_that_of_the_other_verbs_with_epochs_of_its_own(capsys):
    with pytest.raises(SystemExit):
        main(["train-reader", "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    trainer = found["trainer"]
    own = {
        "max_epochs": 6, "gradient_clip_val": 1.0, "enable_checkpointing": False, "devices": 1, "logger": False,
        "enable_model_summary": False, "use_distributed_sampler": False, "log_every_n_steps": 1,
    }  # fmt: skip
    assert {name: trainer[name] for name in own} == own and found["output"] is None
    assert not {"reader", "optimizer"} & set(found["model"]) and not {"method", "folder"} & set(found["network"])


@pytest.mark.parametrize(
    ("words", "scenes"),
    [([], (1000, 300_000)), (["--data.scenes=9"], (9, None)), (["--data.image=a.png", "--data.text=a"], (None, None))],
)
def test_a_thousand_scenes_are_drawn_where_no_pairs_are_given(words, scenes, monkeypatch):
    def setup(data, stage):
        raise Seen(data.scenes, data.scene_options[0] if data.scenes else None)

    monkeypatch.setattr(PairDataModule, "setup", setup)
    with pytest.raises(Seen) as seen:
        main(["train-reader", *words])
    count, seed = seen.value.args
    assert count == scenes[0] and (scenes[1] is None or seed == scenes[1])


def test_too_few_pairs_are_refused_at_the_limit(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(M2IB, "prepare", lambda self: pytest.fail("loaded"))
    for batch in (5, 4):
        said = failure(capsys, "train-reader", "--data.scenes=4", f"--data.batch_size={batch}", f"--output={tmp_path}")
        assert f"Expected pairs beside the first {batch}, which are held out, but got 4." in said


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """What was trained on what, and with which Trainer."""
    found = SimpleNamespace(options=[])

    class Training:
        def __init__(self, method, folder, **network):
            found.folder, found.network = folder, network

        def hold_out(self, pairs):
            return [pair.id for pair in pairs]

    def fit(trainer, training, batches, ckpt_path):
        found.options.append((trainer.precision, [type(callback).__name__ for callback in trainer.callbacks]))

    monkeypatch.setattr(verb.Trainer, "fit", fit)
    training = "m2ib_lightning.methods.reader_training"
    monkeypatch.setattr(f"{training}.compare_with_fit", lambda training, held_out: f"held out: {held_out}")
    monkeypatch.setattr(M2IB, "prepare", lambda self: SimpleNamespace(weight_hash="0123456789abcdef"))
    monkeypatch.chdir(tmp_path)
    # The options are those of the real one.
    monkeypatch.setattr(Training, "__init__", functools.wraps(ReaderTraining.__init__)(Training.__init__))
    monkeypatch.setattr(f"{training}.ReaderTraining", Training)
    return found


def test_the_reader_is_written_with_a_configuration_that_reads_it(trained, tmp_path, capsys):
    words = ["train-reader", "--data.scenes=5", "--data.scene_seed=3", "--data.batch_size=2", "--model.image_beta=9"]
    for _ in range(2):
        main([*words, "--trainer.accelerator=cpu"])
    folder = tmp_path / "outputs" / "reader-0123456789ab"
    assert trained.folder == folder / "fits"
    saved = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert list(saved) == ["class_path", "init_args"] and saved["class_path"] == "m2ib_lightning.M2IB"
    arguments = saved["init_args"]
    assert (arguments["image_beta"], arguments["reader"], arguments["steps"]) == (9, str(folder), 0)
    precision, names = trained.options[0]
    assert precision == "32-true" and "ReaderWriter" in names and "ModelCheckpoint" not in names
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("held out: ['scene-000003', ") for line in said)
    assert said[-1] == f"Use it: m2ib predict --config {folder / 'config.yaml'} --data.source PAIRS"
    main([*words, "--output=a/b", "--trainer.callbacks=[DeviceStatsMonitor]", "--trainer.precision=64-true"])
    assert (tmp_path / "a" / "b" / "config.yaml").is_file()
    precision, names = trained.options[-1]
    assert precision == "64-true" and {"DeviceStatsMonitor", "ReaderWriter"} <= set(names)
