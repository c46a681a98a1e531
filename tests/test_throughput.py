"""The measurement that is made on a GPU, here of two pairs on a processor."""

import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.slow
def test_it_times_each_way_of_explaining_and_each_part_of_a_prediction(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import throughput

    found = throughput.measure(["embedded"], [1], "cpu", minutes=30, pairs=2)
    rows = {(row["way"], row.get("precision")): row for row in found["throughput"]}
    assert {way for way, _ in rows} >= {"M2IB", "GradECLIP", "LeGrad", "Chefer", "released way", "floor of M2IB"}
    assert not [row["note"] for row in found["throughput"] if "note" in row]
    (whole,) = found["end_to_end"]
    assert whole["pairs"] == 2 and all(whole[part] > 0 for part in ("read", "preprocess", "fit", "write", "whole"))


@pytest.mark.slow
def test_what_would_begin_too_late_is_left_out_and_said_to_be(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import throughput

    rows = throughput.throughput(["embedded", "ViT-B/32"], [1], "cpu", until=time.monotonic() - 1)
    assert [row["way"] for row in rows] == ["left out: no time"] * 2
