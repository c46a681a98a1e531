import pytest
from jsonargparse import Namespace

from m2ib_lightning.callbacks import quiet_loggers, settle_loggers


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


def test_wandb_has_nothing_to_warn_of(tmp_path, monkeypatch, capfd):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    settle_loggers(logger("WandbLogger", save_dir=str(folder), offline=False), str(folder))
    made = WandbLogger(save_dir=folder)
    quiet_loggers([made])
    made.experiment.finish()
    assert "WARNING" not in capfd.readouterr().err and (folder / "wandb").is_dir()
