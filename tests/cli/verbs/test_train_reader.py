"""`m2ib train-reader`, with a training that is none."""

import pytest
import yaml

from m2ib_lightning import M2IB, PairDataModule
from m2ib_lightning.cli import main
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
