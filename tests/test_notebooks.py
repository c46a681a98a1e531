"""Every notebook runs as it stands, and is stored with what it showed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.callbacks.offline_run import read_run

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with what it shows now; an error in a cell is raised."""
    made = nbformat.read(path, as_version=4)
    NotebookClient(made, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return made


def text(notebook: nbformat.NotebookNode) -> str:
    """All that its cells printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where its own folder is made
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # that of a test before, which writes from another folder
    now = text(run(path, tmp_path))
    if path.stem.startswith("02"):
        rows = [row for row in read_run(next(tmp_path.glob("*/run"))).rows if "image/fewtokens" in row]
        assert len(rows) == 10 and rows[-1]["image/fewtokens"] < 0.2 * rows[0]["image/fewtokens"]
    if path.stem.startswith("04"):
        assert "4 of 4 wrong captions" in now and "4 of 4 wrong boxes" in now


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_small_and_with_what_it_showed(path):
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert re.match(r"# \d · \w", stored.cells[0].source)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert kinds & {"image/jpeg", "image/png", "image/gif"}
    assert "stderr" not in {output.get("name") for cell in code for output in cell.outputs}
    assert path.stat().st_size < 400_000
