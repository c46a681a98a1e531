"""How inputs are masked, and how tables say it."""

from dataclasses import FrozenInstanceError, astuple

import pytest

from m2ib_lightning.evaluation.protocol import Protocol


def test_the_default_is_named_under_every_table():
    assert astuple(Protocol()) == (20, 32, 0, "corrected")
    assert Protocol().caption == "protocol: corrected (steps=20, masks=32, seed=0)"
    assert Protocol(3, 4, 5, "as_released").caption == "protocol: as_released (steps=3, masks=4, seed=5)"


def test_a_protocol_stays_as_it_is_and_another_name_is_refused():
    with pytest.raises(FrozenInstanceError):
        Protocol().steps = 3
    assert len({Protocol(), Protocol(), Protocol(seed=1)}) == 2
    with pytest.raises(ValueError, match="Expected `protocol` to be one of 'corrected', 'as_released' but got 'paper'"):
        Protocol(name="paper")
