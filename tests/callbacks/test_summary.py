"""What the terminal shows when a run has ended, to the letter."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from m2ib_lightning.callbacks.summary import (
    Drawing,
    draw,
    print_changed,
    print_table,
    print_totals,
    print_verdicts,
    print_written,
)
from m2ib_lightning.store import AttributionStore, Provenance
from m2ib_lightning.types import BadPair, Pair
from m2ib_lightning.verdict import SENTENCES
from tests.made import attribution

MADE = Provenance("embedded", "abc", {})


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def test_the_table_says_how_many_more_pairs_there_are(capsys):
    print_table([], 9)
    assert capsys.readouterr().out == ""
    two = [attribution(id="first"), attribution(id="second")]
    for count, end in ((2, ""), (3, "and 1 more pairs"), (12, "and 10 more pairs")):
        print_table(two, count)
        out = capsys.readouterr().out
        assert "first" in out and "second" in out and out.endswith(f"{end}\n") and ("more" in out) is bool(end)


def test_verdicts_are_counted_and_explained_unless_they_are_ok(capsys):
    for counts, said in (
        (Counter(), ""),
        (Counter({"": 3}), ""),
        (Counter(ok=1), "1 pair: 1 ok\n"),
        (Counter(ok=2), "2 pairs: 2 ok\n"),
        (Counter(no_match=1000, ok=3, similarity_lost=1), "1,004 pairs: 3 ok, 1,000 no match, 1 similarity lost\n"
         f"  no match: {SENTENCES['no_match']}\n  similarity lost: {SENTENCES['similarity_lost']}\n"),
    ):  # fmt: skip
        print_verdicts(counts)
        assert capsys.readouterr().out == said


def test_totals_are_of_the_whole_store_with_reasons_doubles_and_bad_pairs(tmp_path: Path, capsys):
    store = AttributionStore(tmp_path)
    fits = [attribution(id=str(i), stop_reason="converged" if i else "max_steps") for i in range(3)]
    store.append([*fits, attribution(id="p", stop_reason="")], MADE)
    print_totals(store, nothing_done=False)
    done = "Done: 4 pairs (2 converged, 1 max steps)\n"
    out = capsys.readouterr().out
    assert out.startswith(done + "4 pairs: ") and "Bad" not in out and "Remedy: correct" not in out
    verdicts = out.removeprefix(done)
    bad = [BadPair(f"b{i}", "", "", f"Expected no \x1b[31m {i}") for i in range(21)]
    store.append([*bad[:20], fits[0]], MADE)
    twenty = "".join(rf"  b{i}: Expected no \x1b[31m {i}" + "\n" for i in range(20))
    remedy = "Remedy: correct them and run the same command with --retry_errors true\n"
    doubled = (
        "Doubled: 1 pairs of part-00000-000001.parquet are in a part before it, and count once. "
        "Remedy: remove that file\n"
    )
    print_totals(store, nothing_done=True)
    assert capsys.readouterr().out == (
        "Nothing to do: every pair is there.\n" + done + verdicts + doubled
        + "Bad: 20 pairs, without a map\n" + twenty + remedy
    )  # fmt: skip
    store.append(bad[20:], MADE)
    print_totals(store, nothing_done=False)
    more = f"  and 1 more: `AttributionStore('{tmp_path}').errors()`\n"
    assert capsys.readouterr().out.endswith(f"Bad: 21 pairs, without a map\n{twenty}{more}{remedy}")
    other = AttributionStore(tmp_path / "other")
    other.append([attribution(stop_reason="")], MADE)
    print_totals(other, nothing_done=False)
    assert capsys.readouterr().out.startswith("Done: 1 pairs\n1 pair: ")


@pytest.mark.parametrize(
    ("again", "then"),
    [
        (True, "they are explained again.\n"),
        (False, "their results are the old ones.\nRemedy: the same command with --retry_changed true\n"),
    ],
)
def test_twenty_changed_pairs_are_named(again: bool, then: str, capsys):
    changed = {f"p{i}": "caption" if i else "caption and image" for i in range(20)}
    named = "p0 (caption and image), " + ", ".join(f"p{i} (caption)" for i in range(1, 20))
    print_changed(changed, again)
    assert capsys.readouterr().out == f"Changed since they were explained: 20 pairs, {named}; {then}"
    print_changed(changed | {f"\x1b{i}": "image" for i in range(1010)}, again)
    said = f"Changed since they were explained: 1,030 pairs, {named}, and 1,010 more; {then}"
    assert capsys.readouterr().out == said


def test_everything_that_was_written_is_listed_what_people_look_at_first(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    AttributionStore(tmp_path / "attributions").append([attribution(), attribution(id="b")], MADE)
    for name in ("pictures/a.png", "pictures/b.svg", "masks/a/x.png", "masks/b/x.png", "masks/words.csv", ".hidden",
                 "config.yaml", "checkpoints/last.ckpt", "[red]mine", "scores.parquet", "zoo/x"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = {
        "pictures": "  2 pictures",
        "masks": "  2 pairs step by step",
        "attributions": "  2 attributions, Parquet",
        "scores.parquet": "  what each pair was scored with",
        "checkpoints": "  what the same command goes on from",
        "config.yaml": "  the full configuration",
        "[red]mine": "",
        "zoo": "",
    }
    print_written(tmp_path)
    title, *lines = capsys.readouterr().out.splitlines()
    assert "Written:" in title and lines == [f"  {tmp_path}/{name}{what}" for name, what in expected.items()]
    (tmp_path / "masks" / "a.gif").touch()
    print_written(tmp_path)
    assert f"  {tmp_path}/masks  2 pairs step by step, 1 animations\n" in capsys.readouterr().out


def test_each_pair_is_drawn_in_a_file_of_its_name(tmp_path: Path):
    found = [attribution(id="a"), attribution(id="b")]
    pairs = [Pair(id, Image.linear_gradient("L").convert("RGB"), "an ice-cream van") for id in "cba"]
    folder = tmp_path / "run" / "pictures"
    draw(folder, found[:1], pairs, True)
    draw(folder, found[1:], pairs, Drawing("patch", "svg"))
    assert sorted(file.name for file in folder.iterdir()) == ["a.png", "b.svg"]
    assert Image.open(folder / "a.png").format == "PNG" and "<svg" in (folder / "b.svg").read_text()
    assert Drawing() == Drawing("smooth", "png")
