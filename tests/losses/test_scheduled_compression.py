import pytest
import torch

from m2ib_lightning.losses import Compression
from m2ib_lightning.losses.scheduled_compression import ScheduledCompression
from tests.losses.made import tower


def past(*relevance: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"relevance": torch.tensor(values)} for values in relevance]


def test_a_schedule_goes_in_a_straight_line_to_beta_and_stays_there():
    term = ScheduledCompression(start=0.2, steps=4)
    found = [term.factor(past(*[[0.0]] * step)) for step in range(6)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert ScheduledCompression(start=3.0, steps=1).factor([]) == pytest.approx(3.0)


def test_what_it_measures_is_compression():
    seen, term = tower(), ScheduledCompression()
    torch.testing.assert_close(term(seen), Compression()(seen))
    assert term.name == "compression" and term.weighed_by_beta


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`start` to be at least 0"):
        ScheduledCompression(start=-1)
    with pytest.raises(ValueError, match="`steps` to be at least 1"):
        ScheduledCompression(steps=0)


def test_by_default_compression_is_free_at_first_and_costs_beta_after_five_steps():
    term = ScheduledCompression()
    found = [term.factor(past(*[[0.0]] * step)) for step in (0, 4, 5, 6)]
    assert found == pytest.approx([0.0, 0.8, 1.0, 1.0]) and term.weight == 1.0
    assert ScheduledCompression(start=0, steps=1, weight=3.0).weight == 3.0
