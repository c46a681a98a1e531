import io
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from m2ib_lightning.evaluation import Interval, standard_metrics
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.metrics import ConfidenceDrop, PointingGame
from m2ib_lightning.report.comparison import (
    comparison_tables,
    difference_tables,
    mean_text,
    range_text,
    scores_tables,
    verdict,
)

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
