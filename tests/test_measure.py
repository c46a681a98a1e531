"""Numbers of the pages are measured by commands: each table has its place, and what is done is not done again."""

import re
import sys
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, name

sys.path.append(str(ROOT / "scripts"))

import measure
from measured import TABLES


def test_every_table_has_one_place_and_every_place_a_table():
    places = [
        (name(page), found) for page in PAGES for found in re.findall(r"<!-- measure:(\S+) -->", page.read_text())
    ]
    assert sorted(places) == sorted((table.page, table.name) for table in TABLES)
    for page in PAGES:
        assert page.read_text().count("<!-- measure:") == page.read_text().count("<!-- /measure -->")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_command_of_a_table_is_one_that_a_user_can_type(table):
    for run in table.runs.values():
        folders = dict.fromkeys(table.runs, Path("OUTPUT"))
        words = measure.typed(run, folders, "OUTPUT", None).split()
        assert "OUTPUT" in " ".join(words)
        if words[0] == "python":
            source = (ROOT / words[1]).read_text() + (ROOT / "scripts" / "on_scenes.py").read_text()
            assert all(f'"{word}"' in source for word in words if word.startswith("--")), words


def counting(tmp_path: Path, file: str = "count.txt", scenes: int = 0, more: str = "") -> measure.Run:
    """A command that adds a line to one file beside all runs, and writes how many there are to its own."""
    code = "import sys,pathlib as p; o=p.Path(sys.argv[1]); a=p.Path(sys.argv[2]); "
    code += "a.open(chr(97)).write(chr(120)); (o/sys.argv[3]).write_text(str(len(a.read_text())))"
    (tmp_path / "count.py").write_text(code)
    return measure.Run(f"python {tmp_path}/count.py {{output}} {tmp_path}/all {file} {{scenes}} {more}", file, scenes)


def test_what_is_done_is_not_done_again_unless_the_command_is_another(tmp_path):
    table = measure.Table("t", "page.md", {"a": counting(tmp_path, scenes=9)}, lambda files: files["a"].read_text())
    texts = [measure.made(table, tmp_path / "work", fewer) for fewer in (None, None, 3, 20)]
    assert [text.split("\n")[0] for text in texts] == ["1", "1", "2", "1"]
    assert "count.py OUTPUT" in texts[0] and str(tmp_path / "work") not in texts[0]


def test_a_run_that_was_killed_is_done_again(tmp_path):
    run = counting(tmp_path)
    folder = measure.done(run, {}, tmp_path / "work", None)
    (folder / "done.json").unlink()
    assert (measure.done(run, {}, tmp_path / "work", None) / run.file).read_text() == "2"


def test_a_run_is_given_the_folder_of_an_earlier_one(tmp_path):
    runs = {"first": counting(tmp_path), "second": counting(tmp_path, "b.txt", more="{first}/count.txt")}
    table = measure.Table(
        "t", "page.md", runs, lambda files: f"{files['first'].read_text()}{files['second'].read_text()}"
    )
    text = measure.made(table, tmp_path / "work", None)
    assert text.startswith("12") and "FIRST/count.txt" in text


def test_what_is_forgotten_is_of_the_tables_that_are_asked_for_alone(tmp_path):
    runs = {"first": counting(tmp_path), "second": counting(tmp_path, "b.txt", more="{first}/count.txt")}
    both = measure.Table("both", "page.md", runs, lambda files: " ".join(path.read_text() for path in files.values()))
    other = measure.Table("other", "page.md", {"a": counting(tmp_path, "c.txt")}, lambda files: files["a"].read_text())
    found = [measure.made(table, tmp_path / "work", None).split("\n")[0] for table in (both, other)]
    measure.forget(both, tmp_path / "work", None)
    found += [measure.made(table, tmp_path / "work", None).split("\n")[0] for table in (other, both)]
    assert found == ["1 2", "3", "3", "4 5"]


def test_a_command_that_fails_is_said_with_its_last_words(tmp_path):
    (tmp_path / "fail.py").write_text("raise SystemExit('no such scene')")
    with pytest.raises(measure.Failed, match="no such scene"):
        measure.done(measure.Run(f"python {tmp_path}/fail.py {{output}}"), {}, tmp_path / "work", None)


def test_a_table_is_written_between_its_markers_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- measure:t -->\nold\n<!-- /measure -->\nb\n<!-- measure:u -->\nc\n<!-- /measure -->\n")
    measure.write(page, "t", "new \\1")
    assert (
        page.read_text()
        == "a\n<!-- measure:t -->\nnew \\1\n<!-- /measure -->\nb\n<!-- measure:u -->\nc\n<!-- /measure -->\n"
    )
    with pytest.raises(measure.Failed, match="markers"):
        measure.write(page, "v", "new")
