"""What runs compute in by default."""

import pytest
import torch

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main
from m2ib_lightning.precision import precision_on

PREDICT = ["predict", "--data.scenes=1", "--model=CentrePrior", "--trainer.enable_progress_bar=false"]


@pytest.mark.parametrize(
    ("accelerator", "gpu", "has_bfloat16", "expected"),
    [
        ("auto", True, True, "bf16-mixed"),
        ("gpu", True, True, "bf16-mixed"),
        ("cuda", True, True, "bf16-mixed"),
        ("cpu", True, False, "32-true"),
        ("auto", False, False, "32-true"),
        ("auto", True, False, "32-true"),
        ("cpu", True, True, "32-true"),
        ("auto", False, True, "32-true"),
    ],
)
def test_bfloat16_is_chosen_where_a_gpu_computes_in_it(accelerator, gpu, has_bfloat16, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert precision_on(accelerator) == expected


@pytest.mark.parametrize(("asked", "used"), [([], "bf16-mixed"), (["--trainer.precision=32-true"], "32-true")])
def test_a_run_takes_the_devices_precision_unless_another_is_asked_for(asked, used, tmp_path, monkeypatch):
    monkeypatch.setattr("m2ib_lightning.cli.run.precision_on", lambda accelerator: "bf16-mixed")
    main([*PREDICT, *asked, f"--output={tmp_path}"])
    assert AttributionStore(tmp_path / "attributions").provenance.configuration["precision"] == used
    assert f"precision: {used}" in (tmp_path / "config.yaml").read_text()


def test_bfloat16_that_a_gpu_only_emulates_does_not_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert precision_on("auto") == "32-true"
