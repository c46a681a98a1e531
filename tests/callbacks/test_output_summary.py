"""What a run says that it wrote is what is there, and the page to look through it is part of it."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2ib_lightning.callbacks import output_summary
from m2ib_lightning.cli import main
from m2ib_lightning.data import make_scene

FAST = ["--model.steps=1", "--model.noise_samples=1", "--model.antithetic=false", "--trainer.enable_progress_bar=false"]


def written(said: str, folder: Path) -> dict[str, str]:
    """What stands under "Written:", by the name in the folder."""
    lines = said.partition("Written:\n")[2].splitlines()
    found = [re.match(rf"  {re.escape(str(folder))}/(\S+)  ?(.*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def listed(folder: Path) -> list[dict]:
    """The pairs that the gallery of a run holds, in their order."""
    page = (folder / "gallery.html").read_text("utf-8")
    return json.loads(page.split('<script id="data" type="application/json">')[1].split("</script")[0])["pairs"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Ten pairs whose captions have several lengths; the third has no picture and the sixth no caption."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for i in range(10):
        scene = make_scene(i)
        scene.image.save(folder / f"{i}.png")
        rows.append((f"p{i}", f"{i}.png", "a photo of " * (7 * i % 5) + "a cat"))
    rows[2], rows[5] = ("p2", "gone.png", "a cat"), ("p5", "5.png", "")
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "image", "text"), *rows])
    return folder / "pairs.csv"


@pytest.mark.slow
def test_everything_that_a_watched_fit_wrote_is_listed_with_its_number(tmp_path, capsys):
    main(["fit", "--data.scenes=2", f"--output={tmp_path}", "--trainer.callbacks=MaskLogger", *FAST])
    found = written(capsys.readouterr().out, tmp_path)
    assert {name.rstrip("/") for name in found} == {entry.name for entry in tmp_path.iterdir()}
    assert found["pictures"] == "2 pictures" and found["attributions"].startswith("2 attributions")
    assert found["masks"] == "2 pairs step by step, 2 animations"
    assert len(listed(tmp_path)) == 2


def test_a_gallery_has_the_order_of_the_data_and_the_bad_pairs_with_their_reason(pairs, tmp_path, capsys):
    main(["predict", f"--data.source={pairs}", "--data.batch_size=3", f"--output={tmp_path}", *FAST])
    assert "and 2 more" not in capsys.readouterr().out  # of the table, which has every pair that has a map
    found = listed(tmp_path)
    assert [pair["id"] for pair in found] == [f"p{i}" for i in range(10)]
    assert [i for i, pair in enumerate(found) if "error" in pair] == [2, 5]
    assert "gone.png" in found[2]["error"] and "empty text" in found[5]["error"]
    (tmp_path / "gallery.html").unlink()
    main(["gallery", str(tmp_path)])
    assert listed(tmp_path) == found


@pytest.mark.slow
def test_pictures_are_drawn_as_vectors_and_by_patches_where_that_is_asked_for(pairs, tmp_path):
    asked = ["--pictures=true", "--picture_format=svg", "--picture_style=patch", "--gallery=false"]
    main(["predict", f"--data.source={pairs}", f"--output={tmp_path}", *asked, *FAST])
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == [
        f"p{i}.svg" for i in (0, 1, 3, 4, 6, 7, 8, 9)
    ]
    assert "<svg" in (tmp_path / "pictures" / "p0.svg").read_text()
    assert not (tmp_path / "gallery.html").exists()


@pytest.mark.slow
def test_of_many_pairs_the_gallery_waits_to_be_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(output_summary, "GALLERY_PAIRS", 1)
    main(["predict", "--data.scenes=2", f"--output={tmp_path}", *FAST])
    assert f"m2ib gallery {tmp_path}" in capsys.readouterr().out and not (tmp_path / "gallery.html").exists()
    main(["predict", "--data.scenes=2", f"--output={tmp_path}", "--gallery=true", *FAST])
    assert len(listed(tmp_path)) == 2


@pytest.mark.parametrize(("seconds", "parts"), [(0, 2), (600, 1)])
def test_a_part_is_written_when_so_many_seconds_have_passed(seconds, parts, tmp_path):
    asked = [f"--part_seconds={seconds}", "--data.scenes=4", "--data.batch_size=2", "--gallery=false"]
    main(["predict", f"--output={tmp_path}", *asked, *FAST])
    assert len(list((tmp_path / "attributions").glob("part-*.parquet"))) == parts


@pytest.mark.parametrize(
    ("count", "gallery", "made", "said"),
    [
        (0, None, False, False), (0, True, False, False), (1, None, True, False), (1000, None, True, False),
        (1001, None, False, True), (1001, True, True, False), (1, False, False, False), (1001, False, False, False),
    ],
)  # fmt: skip
def test_up_to_a_thousand_pairs_get_a_page_unasked(count, gallery, made, said, tmp_path, capsys, monkeypatch):
    pages = []
    monkeypatch.setattr(output_summary, "AttributionStore", lambda folder: range(count) if folder.name else None)
    monkeypatch.setattr(output_summary, "save_run_gallery", lambda folder, order: pages.append((folder, order)))
    monkeypatch.setattr(output_summary, "print_written", lambda folder: print(f"listed {folder}"))
    summary = output_summary.OutputSummary(tmp_path, gallery)
    summary.teardown(SimpleNamespace(is_global_zero=False, datamodule=None), None, "predict")
    assert capsys.readouterr().out == "" and pages == []
    summary.teardown(SimpleNamespace(is_global_zero=True, datamodule=None), None, "predict")
    assert pages == [(tmp_path, ())] * made
    hint = f"For a page to look through the {count:,} pairs: m2ib gallery {tmp_path}\n"
    assert capsys.readouterr().out == f"listed {tmp_path}\n" + hint * said


def test_a_page_that_cannot_be_written_costs_nothing_else(tmp_path, capsys, monkeypatch):
    def full(folder, order):
        raise OSError("the disk is full")

    monkeypatch.setattr(output_summary, "AttributionStore", lambda folder: [1])
    monkeypatch.setattr(output_summary, "save_run_gallery", full)
    trainer = SimpleNamespace(is_global_zero=True, datamodule=None)
    output_summary.OutputSummary(str(tmp_path)).teardown(trainer, None, "fit")
    first, title = capsys.readouterr().out.splitlines()
    remedy = f"Remedy: make room or correct that, then m2ib gallery {tmp_path}"
    assert first == f"No gallery: the disk is full. {remedy}" and title == "Written:"
