"""`m2ib calibrate`, with a calibration that is none."""

import functools
import inspect
from types import SimpleNamespace

import pytest

from m2ib_lightning.cli import main
from m2ib_lightning.cli.verbs import calibrate as verb


@pytest.fixture
def calibrated(monkeypatch, tmp_path):
    """What was asked of a calibration; what it found says a line with brackets."""
    asked, saved = [], []

    class Found:
        weights = "0123456789abcdef"

        def save(self, folder):
            folder.mkdir(parents=True)
            saved.append(folder)

        def __str__(self):
            return "[bold]image_layer 2[/bold] and " + "much of it " * 20

    @functools.wraps(verb.calibrate)
    def calibrate(*given, **named):
        asked.append(inspect.signature(verb.calibrate).bind(*given, **named).arguments)
        return Found()

    monkeypatch.setattr(verb, "calibrate", calibrate)
    monkeypatch.setattr("m2ib_lightning.report.calibration.grid_tables", lambda found: ["first table", "second table"])
    monkeypatch.setattr(
        "m2ib_lightning.report.calibration.save_grid_picture", lambda found, path: path.write_bytes(b"grid")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    return SimpleNamespace(asked=asked, saved=saved)


def test_the_grid_is_written_to_a_folder_named_by_the_models_weights_and_its_use_is_said(calibrated, tmp_path, capsys):
    main(["calibrate", "--data.scenes=9", "--data.batch_size=3", "--steps=4", "--image_layers=[2]"])
    folder = tmp_path / "outputs" / "calibration-0123456789ab"
    assert (folder / "grid.png").read_bytes() == b"grid"
    (asked,) = calibrated.asked
    assert (asked["backbone"], asked["steps"], asked["batch_size"], asked["image_layers"]) == ("embedded", 4, 3, [2])
    assert asked["pairs"].scenes == 9
    said = capsys.readouterr().out
    assert "first table\nsecond table\n[bold]image_layer 2[/bold] and" in said and "grid.png" in said
    use = "Use it: m2ib predict --config outputs/calibration-0123456789ab/calibration.yaml --data.source PAIRS"
    assert said.replace("\\", "/").splitlines()[-1] == use  # in one line, however narrow the terminal is


def test_another_folder_and_model_are_taken(calibrated, capsys):
    main(["calibrate", "--data.scenes=9", "--output=there", "--model.backbone=mine"])
    assert [folder.as_posix() for folder in calibrated.saved] == ["there"]
    assert calibrated.asked[0]["backbone"] == "mine"
