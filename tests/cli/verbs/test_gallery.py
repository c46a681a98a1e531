"""`m2ib gallery` as it is typed."""

from types import SimpleNamespace

import pytest
import yaml

from m2ib_lightning.cli import main


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """What a gallery was made of; the page has 1,500,000 bytes."""
    asked = []

    def save(folder, file, order):
        page = tmp_path / "page.html"
        page.write_bytes(bytes(1_500_000))
        asked.append((folder, file, list(order)))
        return SimpleNamespace(path=page, pairs=3, pictures=2)

    monkeypatch.setattr("m2ib_lightning.report.gallery.save_run_gallery", save)
    return asked


def test_the_pairs_are_in_the_order_of_the_runs_data_and_the_size_of_the_page_is_said(saved, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"scenes": 2, "scene_seed": 7}, "output": "else"}))
    main(["gallery", str(tmp_path)])
    assert saved == [(str(tmp_path), None, ["scene-000007", "scene-000008"])]
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}  3 pairs, 2 with their picture, 1.5 MB\n"


def test_without_data_that_can_be_read_there_is_no_order(saved, tmp_path, capsys):
    main(["gallery", str(tmp_path), "--file=there.html"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"source": str(tmp_path / "gone.csv")}}))
    main(["gallery", str(tmp_path)])
    assert saved == [(str(tmp_path), "there.html", []), (str(tmp_path), None, [])]
    capsys.readouterr()
