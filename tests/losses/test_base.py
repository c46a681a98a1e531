import pytest
import torch

from m2ib_lightning.contracts import ContractError
from m2ib_lightning.losses import Compression, JointTerm, LossTerm
from m2ib_lightning.losses.base import mean_of_open
from tests.losses.made import tower


class Given(LossTerm):
    """Gives one value after the other, whatever it sees."""

    def __init__(self, *values):
        super().__init__()
        self.values = list(values)

    def forward(self, *towers):
        return self.values.pop(0)


def test_a_mean_counts_the_channels_of_open_tokens_and_is_0_where_none_is_open():
    values = torch.arange(24.0).reshape(3, 2, 4)
    is_open = torch.tensor([[True, True], [False, True], [False, False]])
    # (0 + ... + 7) / 8 = 3.5; (12 + ... + 15) / 4 = 13.5
    torch.testing.assert_close(mean_of_open(values, is_open), torch.tensor([3.5, 13.5, 0.0]))


def test_a_term_counts_once_is_added_and_knows_no_beta_unless_it_says_otherwise():
    term = Given()
    assert (term.weight, term.maximised, term.weighed_by_beta, term.name) == (1.0, False, False, "given")
    assert Compression(weight=0.5).weight == 0.5


def test_a_name_is_that_of_the_class_even_below_a_class_that_has_one():
    class Named(LossTerm):
        name = "mine"

    class Further(Named):
        pass

    assert (Named.name, Further.name) == ("mine", "further")


def test_a_value_of_the_wrong_shape_is_refused_at_any_step_and_nan_at_the_first_alone():
    right, nan = torch.ones(2), torch.full((2,), torch.nan)
    seen = tower()
    with pytest.raises(ContractError, match=r"shape \(2, 1\)"):
        Given(right[:, None])(seen)
    with pytest.raises(ContractError, match="nan or inf for every pair"):
        Given(nan)(seen)
    term = Given(right, nan, right, right[:1])
    assert term(seen).tolist() == [1, 1] and term(seen).isnan().all() and term(seen).tolist() == [1, 1]
    with pytest.raises(ContractError, match=r"shape \(1,\)"):
        term(seen)


def test_a_value_that_is_no_tensor_is_refused_at_any_step():
    term = Given(torch.ones(2), 1.0)
    term(tower())
    with pytest.raises(ContractError, match="a float"):
        term(tower())


def test_each_tower_and_both_together_are_checked_when_they_are_seen_first():
    right, nan = torch.ones(2), torch.full((2,), torch.nan)
    term = Given(right, nan, right, nan)
    term(tower("image"))
    with pytest.raises(ContractError, match="mask of the text but got nan"):
        term(tower("text", None))
    with_both = type("Both", (Given, JointTerm), {})(right, nan)
    assert with_both(tower("image"), tower("text", None)).tolist() == [1, 1]
    assert with_both(tower("image"), tower("text", None)).isnan().all()
