import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from m2ib_lightning.evaluation import Interval, standard_metrics
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.metrics import ConfidenceDrop, PointingGame
from m2ib_lightning.report.comparison import (
    against_others,
    best_of,
    comparison_tables,
    difference_tables,
    groups,
    mean_text,
    range_text,
    scores_tables,
    verdict,
    won_by_control,
)
from m2ib_lightning.report.comparison_page import Example, save_comparison_page

METHODS = ["random", "M2IB", "IntegratedGradients"]
KINDS = [comparison_tables, lambda found, width=None: difference_tables(found, "M2IB", width), scores_tables]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Comparison:
    rng, metrics = np.random.default_rng(0), standard_metrics()
    rows = [
        {"method": method, "id": str(i), "seconds": 0.1, **{m.name: rng.normal(-20, 9) for m in metrics}}
        for method in METHODS
        for i in range(12)
    ]
    return Comparison(pd.DataFrame(rows), metrics, tmp_path_factory.mktemp("comparison"))


def printed(tables, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def words(text: str) -> list[str]:
    return sorted(word for word in text.split() if any(c.isalnum() for c in word))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_in_a_terminal_of_80_columns(kind, found):
    narrow, wide = printed(kind(found, 80), 80), printed(kind(found), 400)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    assert set(words(wide)) == set(words(narrow))  # further tables repeat the names of their rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_terminal_gets_one_table_for_a_modality(kind, found):
    assert printed(kind(found, 200), 200) == printed(kind(found), 200)
    assert len(kind(found, 200)) == (1 if kind is scores_tables else 2)


def test_a_column_too_wide_for_any_terminal_has_a_table_of_its_own(found):
    assert len(scores_tables(found, 10)) == len(METHODS)
    assert len(comparison_tables(found, 10)) == len(standard_metrics()) + 2  # and the seconds of both modalities


def test_numbers_keep_all_digits_before_the_point():
    assert (mean_text(Interval(100.0, 0, 0, 1)), mean_text(Interval(-0.04567, 0, 0, 1), "+")) == ("100", "-0.0457")
    assert (
        range_text(Interval(50.0, 9.96, 1234.5, 3)) == "10..1234"
        and range_text(Interval(0, -0.5, 66.6, 3)) == "-0.5..67"
    )


def test_a_verdict_follows_the_interval_and_the_direction_of_the_metric():
    clear, holds_zero, none = Interval(0.2, 0.1, 0.3, 5), Interval(0.2, -0.1, 0.5, 5), Interval(math.nan, 0, 0, 0)
    assert [verdict(found, PointingGame()) for found in (clear, holds_zero, none)] == [1, 0, 0]
    assert [verdict(found, ConfidenceDrop()) for found in (clear, Interval(-0.2, -0.3, -0.1, 5))] == [-1, 1]


def made(values, controls=(), metric=None) -> Comparison:
    """A comparison of one metric from each method's values."""
    metric = metric or ConfidenceDrop("image")
    rows = [
        {"method": method, "id": str(i), "seconds": 0.1, metric.name: value}
        for method, column in values.items()
        for i, value in enumerate(column)
    ]
    return Comparison(pd.DataFrame(rows), [metric], Path(), controls=controls)


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 0.3, 1), (-0.3, -0.1, -1), (-0.1, 0.3, 0)])
def test_a_difference_is_better_on_the_side_that_the_metric_says(low, high, sign):
    found = Interval((low + high) / 2, low, high, 9)
    assert verdict(found, PointingGame()) == sign
    assert verdict(found, ConfidenceDrop()) == -sign


def test_the_best_is_the_smallest_where_lower_is_better():
    found = {"a": Interval(1.0, 0, 0, 1), "b": Interval(2.0, 0, 0, 1), "c": Interval(float("nan"), 0, 0, 0)}
    assert best_of(found, PointingGame()) == "b" and best_of(found, ConfidenceDrop()) == "a"
    assert best_of({"c": found["c"]}, PointingGame()) == ""


def test_differences_are_of_the_same_pairs_in_whatever_order_they_stand():
    found = made({"one": [1.0, 5.0, 9.0], "two": [0.0, 4.0, 8.0]})
    turned = Comparison(found.frame.iloc[[0, 1, 2, 5, 3, 4]], found.metrics, found.folder)
    ((gap, _),) = against_others(turned, found.metrics[0], "one")
    assert (gap.mean, gap.low, gap.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("control", "method", "metric", "winner"),
    [
        ([0.0], [1.0], ConfidenceDrop("image"), "UniformMap"),
        ([2.0], [1.0], ConfidenceDrop("image"), ""),
        ([1.0], [1.0], ConfidenceDrop("image"), "UniformMap"),  # a tie ranks nothing either
        ([0.0], [1.0], PointingGame(), ""),
        ([2.0], [1.0], PointingGame(), "UniformMap"),
    ],
)
def test_a_metric_that_a_control_wins_is_marked_and_stands_apart(control, method, metric, winner):
    found = made({"UniformMap": control, "M2IB": method}, ["UniformMap"], metric)
    assert won_by_control(found, metric) == winner
    assert [group.apart for group in groups(found)] == [bool(winner)]
    (table,) = comparison_tables(found)
    assert ("ranks nothing" in printed([table], 200)) == ("UniformMap" in str(table.columns[1].header)) == bool(winner)
    assert ("✗" in printed(scores_tables(found), 200)) == bool(winner)


def test_what_is_on_the_page_is_text_and_not_markup(tmp_path):
    found = made({"<b>ours</b>": [1.0]}, metric=PointingGame())
    example = Example("<i>1", "a <script>", {"<b>ours</b>": Image.new("RGB", (2, 2))}, {"<b>ours</b>": "<u>cat"})
    save_comparison_page(found, tmp_path / "page.html", "<b>ours</b>", "a <caption>", [example])
    page = (tmp_path / "page.html").read_text()
    assert not any(tag in page for tag in ("<b>ours", "<i>1", "<script", "<u>cat", "<caption>"))
    assert "a &lt;caption&gt;" in page and "&lt;u&gt;cat" in page and "http" not in page


def test_the_page_says_which_methods_were_left_out_and_why(tmp_path):
    found = made({"M2IB": [1.0]}, metric=PointingGame())
    save_comparison_page(found, tmp_path / "all.html", "M2IB", "")
    assert "Left out" not in (tmp_path / "all.html").read_text()
    found.left_out = {"Chefer": "Expected a <token>."}
    save_comparison_page(found, tmp_path / "some.html", "M2IB", "")
    assert "Left out: Chefer. Expected a &lt;token&gt;." in (tmp_path / "some.html").read_text()
