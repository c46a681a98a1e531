import math

import pytest
import torch

from m2ib_lightning.losses import AdaptiveCompression, Compression, ScheduledCompression
from tests.losses.made import tower


def past(*relevance: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"relevance": torch.tensor(values)} for values in relevance]


def test_a_schedule_goes_in_a_straight_line_to_beta_and_stays_there():
    term = ScheduledCompression(start=0.2, steps=4)
    found = [term.factor(past(*[[0.0]] * step)) for step in range(6)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert ScheduledCompression(start=3.0, steps=1).factor([]) == pytest.approx(3.0)


def test_an_adaptive_weight_is_that_of_a_slow_float64_recursion():
    relevance = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    term = AdaptiveCompression(keep=0.8, rate=5.0)
    assert term.factor([]) == 1
    for b in range(3):
        weight = 1.0
        for r in relevance[:, b].double().tolist():
            weight *= math.exp(5.0 * (r - 0.8 * float(relevance[0, b])))
        found = term.factor([{"relevance": step} for step in relevance])
        assert float(found[b]) == pytest.approx(weight, rel=1e-5)


def test_compression_gets_dearer_where_more_is_left_than_must_be():
    found = AdaptiveCompression(keep=0.9, rate=3).factor(past([0.4, 0.4, 0.4], [0.4, 0.36, 0.1]))
    # Both start with a surplus of 0.04; the second pair is then exact, the third short by 0.26.
    assert found.tolist() == pytest.approx([math.exp(3 * 0.08), math.exp(3 * 0.04), math.exp(3 * -0.22)], rel=1e-5)


def test_what_they_measure_is_compression():
    seen = tower()
    for term in (ScheduledCompression(), AdaptiveCompression()):
        torch.testing.assert_close(term(seen), Compression()(seen))
        assert term.name == "compression" and term.weighed_by_beta


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`start` to be at least 0"):
        ScheduledCompression(start=-1)
    with pytest.raises(ValueError, match="`steps` to be at least 1"):
        ScheduledCompression(steps=0)
    with pytest.raises(ValueError, match="`keep` above 0"):
        AdaptiveCompression(keep=0)
    with pytest.raises(ValueError, match="term named 'relevance'"):
        AdaptiveCompression().factor([{"compression": torch.zeros(1)}])
