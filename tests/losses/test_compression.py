import torch
from hypothesis import given
from hypothesis import strategies as st

from m2ib_lightning.losses import Compression, compression


def test_compression_is_the_mean_over_open_tokens_and_channels():
    capacity = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [100.0, 100.0]]])
    is_open = torch.tensor([[True, True], [True, False]])
    # (1 + 3 + 5 + 7) / 4 = 4; (2 + 2) / 2 = 2: the closed token has no part.
    torch.testing.assert_close(compression(capacity, is_open), torch.tensor([4.0, 2.0]))


@given(st.integers(0, 5), st.integers(0, 10**6))
def test_padding_does_not_change_compression(padding: int, seed: int):
    capacity = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(seed))
    is_open = torch.ones(2, 4, dtype=torch.bool)
    padded = torch.cat([capacity, torch.full((2, padding, 3), 9.0)], 1)
    more = torch.cat([is_open, torch.zeros(2, padding, dtype=torch.bool)], 1)
    torch.testing.assert_close(compression(padded, more), compression(capacity, is_open))


def test_compression_is_weighed_by_beta():
    assert Compression.weighed_by_beta and not Compression.maximised
    assert Compression.name == "compression"
