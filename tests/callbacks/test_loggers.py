from types import SimpleNamespace

import pytest
from jsonargparse import Namespace

from m2ib_lightning.callbacks import close_loggers, quiet_loggers, settle_loggers


def logger(kind: str, **arguments) -> Namespace:
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(**arguments))


@pytest.mark.parametrize("given", [None, "", "."])
def test_a_logger_without_a_folder_gets_the_runs(given):
    one, two = logger("CSVLogger", save_dir=given), logger("TensorBoardLogger", save_dir="mine")
    settle_loggers([one, two], "run")
    assert (one.init_args.save_dir, two.init_args.save_dir) == ("run", "mine")


@pytest.mark.parametrize("logged_in", [True, False])
def test_wandb_is_offline_where_nobody_is_logged_in_and_nothing_is_asked(monkeypatch, tmp_path, logged_in):
    import wandb

    asked, set_up = [], []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **how: asked.append(how) or logged_in)
    monkeypatch.setattr(wandb, "setup", lambda settings: set_up.append(settings.mode))
    settle_loggers(logger("WandbLogger", save_dir=".", offline=False), str(tmp_path))
    assert asked == [{"prompt": False, "verify": False}]
    assert set_up == ([] if logged_in else ["offline"])


@pytest.mark.parametrize(("mode", "offline"), [("online", False), (None, True)])
def test_what_the_user_says_about_wandb_is_kept(monkeypatch, tmp_path, mode, offline):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(wandb, "login", lambda **how: pytest.fail("asked"))
    settle_loggers(logger("WandbLogger", save_dir=".", offline=offline), str(tmp_path))


@pytest.mark.slow
def test_wandb_has_nothing_to_warn_of(tmp_path, monkeypatch, capfd):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    settle_loggers(logger("WandbLogger", save_dir=str(folder), offline=False), str(folder))
    made = WandbLogger(save_dir=folder)
    quiet_loggers([made])
    made.experiment.finish()
    assert "WARNING" not in capfd.readouterr().err and (folder / "wandb").is_dir()


@pytest.mark.parametrize("given", [True, False, None, Namespace(class_path="x.CSVLogger"), [None, True]])
def test_what_names_no_logger_with_arguments_is_left_as_it_is(given):
    before = str(given)
    settle_loggers(given, "run")
    assert str(given) == before


def test_a_logger_that_takes_no_folder_is_given_none():
    one, two = logger("CometLogger", workspace="x"), logger("CSVLogger", save_dir=None)
    settle_loggers((one, two), "run")
    assert "save_dir" not in one.init_args and two.init_args.save_dir == "run"


def test_the_folder_of_wandb_is_made_with_those_above_it(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "deep" / "run"
    for _ in range(2):  # it may be there
        settle_loggers(logger("WandbLogger", save_dir=None, offline=False), str(folder))
        assert folder.is_dir()
    settle_loggers(logger("CSVLogger", save_dir=None), str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_an_argument_that_nobody_gave_is_left_out_and_one_that_somebody_gave_stays(tmp_path):
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

    plain, asked, without = (WandbLogger(save_dir=tmp_path, offline=True) for _ in range(3))
    plain._wandb_init["anonymous"], asked._wandb_init["anonymous"] = None, "must"
    without._wandb_init.pop("anonymous", None)
    quiet_loggers([CSVLogger(tmp_path), plain, asked, without])
    found = [made._wandb_init.get("anonymous", "not there") for made in (plain, asked, without)]
    assert found == ["not there", "must", "not there"]


def test_a_run_of_wandb_is_ended_and_others_are_left_alone(tmp_path):
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

    ended, made = [], WandbLogger(save_dir=tmp_path, offline=True)
    made._experiment = SimpleNamespace(finish=lambda: ended.append("finished"))
    close_loggers([CSVLogger(tmp_path), made])
    assert ended == ["finished"]
