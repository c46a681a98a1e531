import pytest
import torch

from m2ib_lightning.losses import Sparsity, sparsity
from tests.losses.made import tower


@pytest.mark.parametrize("seed", range(5))
def test_it_is_that_of_a_slow_float64_loop(seed):
    seen = tower("text", None, seed)
    expected = []
    for mask, is_open in zip(seen.lambda_.double().numpy(), seen.open.numpy(), strict=True):
        values = [value for token, counts in zip(mask, is_open, strict=True) if counts for value in token]
        expected.append(sum(values) / len(values))
    torch.testing.assert_close(sparsity(seen.lambda_, seen.open).double(), torch.tensor(expected, dtype=torch.float64))


def test_open_masks_cost_1_and_closed_ones_nothing():
    seen = tower()
    assert Sparsity()(seen._replace(lambda_=torch.ones_like(seen.lambda_))).tolist() == [1, 1]
    assert Sparsity()(seen._replace(lambda_=torch.zeros_like(seen.lambda_))).tolist() == [0, 0]
