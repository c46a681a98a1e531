"""A checkpoint is written where it is wanted and read if it is one, in plain values."""

import re
from pathlib import Path

import pytest
import torch

from m2ib_lightning.store.checkpoint import CheckpointFiles

LEAST = {"state_dict": {"alpha": torch.ones(2)}, "callbacks": {}, "loops": {}}


def reason(path: Path) -> str:
    with pytest.raises(ValueError) as said:
        CheckpointFiles().load_checkpoint(path)
    found = re.fullmatch(
        rf"Expected a checkpoint of `m2ib fit` but {re.escape(str(path))} is damaged or holds something else, which "
        r"was not run \((.*)\)\. Remedy: name OUTPUT/checkpoints/last\.ckpt, or begin anew\.",
        str(said.value),
    )
    assert found is not None, said.value
    return found[1]


def test_a_checkpoint_comes_back_from_a_folder_that_was_not_there_and_may_be_written_again(tmp_path: Path):
    files, path = CheckpointFiles(), tmp_path / "run" / "checkpoints" / "last.ckpt"
    for step in (1, 2):
        files.save_checkpoint(LEAST | {"global_step": step}, path)
        found = files.load_checkpoint(path)
        assert found["global_step"] == step and found["state_dict"]["alpha"].tolist() == [1, 1]
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    files.save_checkpoint(LEAST, path)
    assert set(files.load_checkpoint(path)) == set(LEAST)


@pytest.mark.parametrize("other", [[1, 2], {}, {"state_dict": {}, "loops": {}}, torch.ones(2)])
def test_plain_values_that_are_no_checkpoint_are_refused(tmp_path: Path, other):
    torch.save(other, tmp_path / "x.ckpt")
    assert reason(tmp_path / "x.ckpt") == "ValueError: no checkpoint of a Trainer"


def test_objects_are_not_made_whatever_is_asked_for_and_the_reason_is_short(tmp_path: Path):
    torch.save(LEAST | {"path": Path("x")}, tmp_path / "x.ckpt")
    said = reason(tmp_path / "x.ckpt")
    assert said.startswith("UnpicklingError: Weights only load failed") and len(said) == len("UnpicklingError: ") + 80
    with pytest.raises(ValueError, match="holds something else"):
        CheckpointFiles().load_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    with pytest.raises(
        ValueError, match=rf"^Expected a checkpoint but {tmp_path}/y does not exist. Remedy: correct --"
    ):
        CheckpointFiles().load_checkpoint(tmp_path / "y")
