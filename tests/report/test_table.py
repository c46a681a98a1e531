import io

import numpy as np
import pytest
from rich.console import Console

from m2ib_lightning import Attribution, AttributionStore
from m2ib_lightning.callbacks.summary import print_table, print_totals
from m2ib_lightning.errors import fail
from m2ib_lightning.printable import printable
from m2ib_lightning.report import results_table
from m2ib_lightning.report.table import place
from m2ib_lightning.types import BadPair
from tests.report.made import attribution

LONG = "holidays/2024/summer/IMG_1234567.jpg"


def printed(*attributions: Attribution, width: int = 80) -> list[str]:
    """The lines of the table that are not empty."""
    console = Console(width=width, file=io.StringIO())
    console.print(results_table(attributions))
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_a_row_tells_what_an_attribution_holds():
    _, units, _, first, second = printed(attribution())
    assert "(nats)" in units
    assert " ".join(first.split()) == "pair-1 0.25 upper right cat 5.00 ok"
    assert " ".join(second.split()) == "a photo of a cat → 0.50 / 0.75 (0.88, 0.12) a 4.00 10, max steps"


def test_a_row_says_what_the_text_was_explained_against():
    *_, second = printed(attribution(settings={"against": "a dog"}), width=120)
    assert second.lstrip().startswith("a photo of a cat, rather than a dog ")


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_pair_takes_two_lines_in_any_terminal(width):
    rows = [attribution("a photo of " + "extraordinarily " * 20, id=LONG), attribution("one\nline")]
    lines = printed(*rows, width=width)
    assert len(lines) == 3 + 2 * len(rows)
    assert max(map(len, lines)) <= width
    for values in ("→ 0.50 / 0.75", "(0.88, 0.12)", "max steps"):
        assert values in lines[4]


def test_a_wider_terminal_shows_more_of_the_text():
    assert LONG not in "".join(printed(attribution(id=LONG), width=80))
    assert LONG in "".join(printed(attribution(id=LONG), width=120))


def test_a_dash_stands_for_what_was_not_explained():
    nan = float("nan")
    lines = printed(attribution(image_map=None, image_score=nan))
    assert " ".join(lines[3].split()) == "pair-1 0.25 – cat 5.00 ok"
    assert "→ – / 0.75" in lines[4]
    lines = printed(attribution(text_map=None, text_score=nan))
    assert " ".join(lines[3].split()) == "pair-1 0.25 upper right – ok"


def test_a_method_without_bottleneck_and_steps_has_one_similarity():
    nan = float("nan")
    lines = printed(attribution(image_score=nan, text_score=nan, steps=0, stop_reason=""))
    assert "→" not in lines[4] and lines[4].endswith("a 4.00")
    assert lines[3].endswith("ok")


def test_what_should_not_be_believed_is_said_in_the_row_and_counted_with_its_remedy(tmp_path, capsys):
    lost = attribution(id="lost", text_score=0.01)
    assert printed(lost)[3].endswith("similarity lost")
    store = AttributionStore(tmp_path)
    store.append([attribution(id="a"), attribution(id="b"), BadPair("c", "", "", "Expected.")])
    store.append([attribution(id="d"), lost])
    print_totals(store, nothing_done=False)
    said = capsys.readouterr().out
    assert "4 pairs: 3 ok, 1 similarity lost\n  similarity lost: Little of the pair's similarity" in said
    assert "keep=0.9" in said and "no match" not in said


def test_markup_in_a_text_stands_for_itself():
    assert "[red]a[/red] :cat:" in printed(attribution("[red]a[/red] :cat:"), width=100)[4]


def test_a_place_is_named_by_its_third():
    named = [[place(x, y) for x in (0, 0.5, 1)] for y in (0, 0.5, 1)]
    assert named == [
        ["upper left", "upper middle", "upper right"],
        ["left", "centre", "right"],
        ["lower left", "lower middle", "lower right"],
    ]


def test_units_of_all_rows_are_named():
    assert "(nats, gradient)" in printed(attribution(), attribution(unit="gradient"))[1]


def test_no_attributions_give_an_empty_table():
    assert len(printed()) == 3


def test_the_strongest_words_come_first_whatever_their_sign():
    made = attribution("a cat", text_map=np.array([0, -3, -20, 0], np.float32))
    lines = printed(made)
    assert "a -3.0" in lines[3] and "cat -20.0" in lines[4]


STEERING = "\x1b[31m\x1b]0;title\x07\x9b2J\u202etac\u2066\u200f\r"


def test_what_steers_a_terminal_is_shown_and_not_obeyed():
    shown = "".join(printed(attribution(f"cat {STEERING}", id=f"a{STEERING}"), width=200))
    assert not set(STEERING) & set(shown) - set("31m]0;title2Jtac[")
    assert r"a\x1b[31m\x1b]0;title\x07\x9b2J\u202etac\u2066\u200f" in shown


def test_letters_written_from_right_to_left_stay():
    assert (
        printable("\u05d7\u05ea\u05d5\u05dc \u0642\u0637 \u732b\ttab\n")
        == "\u05d7\u05ea\u05d5\u05dc \u0642\u0637 \u732b\ttab\n"
    )


def test_errors_and_bad_pairs_are_printed_without_what_steers_a_terminal(tmp_path, capsys):
    store = AttributionStore(tmp_path)
    store.append([BadPair("a\x1b[2J", "", "", "Expected \x9b a cat\u202e.")])
    print_totals(store, nothing_done=False)
    with pytest.raises(SystemExit):
        fail("Expected a\x1b[2J but got \u202eb. Remedy: c.")
    said = capsys.readouterr()
    assert r"a\x1b[2J: Expected \x9b a cat\u202e." in said.out and r"Expected a\x1b[2J but got \u202eb." in said.err
    assert "\x1b" not in said.out + said.err and "\u202e" not in said.out + said.err


def test_a_run_shows_its_first_results_and_how_many_more_there_are_and_no_table_of_none(capsys):
    print_table([attribution(), attribution()], 5)
    said = capsys.readouterr().out
    assert said.count("pair-1") == 2 and said.endswith("and 3 more pairs\n")
    print_table([attribution()], 1)
    assert "more pairs" not in capsys.readouterr().out
    print_table([], 0)
    assert capsys.readouterr().out == ""
