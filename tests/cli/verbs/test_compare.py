"""`m2ib compare`, with a comparison that is none."""

from types import SimpleNamespace

import pandas as pd
import pytest

from m2ib_lightning.cli import main
from m2ib_lightning.cli.verbs.compare import METHODS
from m2ib_lightning.evaluation import Comparison, Protocol, sanity_metrics, standard_metrics


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """What was compared and what stands on the page; labels in `left_out` are not found."""
    seen = SimpleNamespace(left_out=(), folder=tmp_path / "out")

    def compare(methods, data, folder, metrics, protocol, precision, progress, accelerator):
        seen.methods, seen.data, seen.metrics = methods, data, [m.name for m in metrics]
        seen.protocol, seen.precision, seen.accelerator = protocol, precision, accelerator
        seen.line = progress("label")[0].doing
        labels = list(methods) if isinstance(methods, dict) else [type(m).__name__ for m in methods]
        folder.mkdir(parents=True)
        frame = pd.DataFrame([{"method": label, "id": "0"} for label in labels if label not in seen.left_out])
        return Comparison(frame, metrics, folder, protocol)

    def page(found, path, against, caption, examples):
        seen.page, seen.against, seen.caption, seen.examples = path, against, caption, examples

    report = "m2ib_lightning.report"
    monkeypatch.setattr("m2ib_lightning.comparison.compare", compare)
    monkeypatch.setattr(f"{report}.comparison.comparison_tables", lambda found, width: ["tables"])
    monkeypatch.setattr(f"{report}.comparison.difference_tables", lambda found, against, width: [f"less {against}"])
    monkeypatch.setattr(f"{report}.comparison_page.save_comparison_page", page)
    monkeypatch.setattr(f"{report}.comparison_page.make_examples", lambda found, pairs: [pair.id for pair in pairs])
    monkeypatch.setattr("time.perf_counter", lambda: 100.0)
    return seen


def test_by_default_quick_methods_are_compared_by_what_costs_little(compared, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    main(["compare", "--data.scenes=6", "--data.scene_seed=50", f"--output={compared.folder}", "--accelerator=cpu"])
    assert tuple(type(method).__name__ for method in compared.methods) == METHODS
    assert {method.backbone_name for method in compared.methods} == {"embedded"}
    assert compared.metrics == [metric.name for metric in standard_metrics()]
    assert (compared.protocol, compared.precision, compared.accelerator) == (Protocol(), "32-true", "cpu")
    assert compared.data.batch_size == 20 and compared.line == "label" and compared.against == "M2IB"
    assert compared.page == compared.folder / "comparison.html"
    assert compared.examples == [f"scene-{50 + i:06d}" for i in range(4)]
    assert compared.caption.startswith("embedded, 6 plain scenes from seed 50, ")
    assert compared.caption.endswith("; explained in 32-true; protocol: corrected (steps=20, masks=32, seed=0).")
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["tables", "less M2IB"] and said[2] == compared.caption and said[3] == "0 s"


def test_what_is_asked_for_is_compared(compared, capsys):
    main([
        "compare", "--methods={a: GradCAM, b: {class_path: Saliency, init_args: {backbone: other}}}", "--sanity=true",
        "--metrics=[PointingGame]", "--against=b", "--backbone=mine", "--precision=16-mixed", "--data.scenes=2",
        "--data.scene_kind=hard", "--protocol=as_released", f"--output={compared.folder}",
    ])  # fmt: skip
    assert {label: method.backbone_name for label, method in compared.methods.items()} == {"a": "mine", "b": "other"}
    assert compared.metrics == ["image/PointingGame", *(metric.name for metric in sanity_metrics())]
    assert (compared.protocol.name, compared.precision, compared.against) == ("as_released", "16-mixed", "b")
    assert compared.caption.startswith("mine, 2 hard scenes from seed ") and compared.caption.count("up to ") == 2
    assert len(compared.examples) == 2
    capsys.readouterr()


def test_a_method_that_is_left_out_is_held_against_nothing(compared, capsys):
    compared.left_out = ("M2IB", "GradCAM")
    main(["compare", "--data.scenes=1", f"--output={compared.folder}"])
    assert compared.against == "Saliency" and "less Saliency" in capsys.readouterr().out


def test_pairs_of_ones_own_are_named_by_where_they_are(compared, tmp_path, capsys):
    from m2ib_lightning.data import make_scene

    make_scene(1).image.save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("image,text\na.png,a cat\na.png,a key\n")
    main(["compare", f"--data.source={tmp_path / 'pairs.csv'}", f"--output={compared.folder}"])
    assert compared.caption.startswith(f"embedded, 2 pairs of {tmp_path / 'pairs.csv'}; explained in ")
    assert len(compared.examples) == 2
    capsys.readouterr()
