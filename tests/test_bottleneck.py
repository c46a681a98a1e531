import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from m2ib_lightning.bottleneck import InformationBottleneck, NoiseBank, gaussian_capacity
from m2ib_lightning.prior import Prior, unit_prior
from m2ib_lightning.types import HiddenStates


def hidden_states(batch: int = 2, length: int = 5, width: int = 4, read: int | None = 0) -> HiddenStates:
    states = torch.randn(batch, length, width, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(batch, length, dtype=torch.bool)
    valid[1, 3:] = False
    special = ~valid
    special[:, 0] = True
    return HiddenStates(states, valid, special, None if read is None else torch.full((batch,), read))


def test_capacity_of_a_half_closed_mask_is_as_computed_by_hand():
    # lambda_ = 1/2, x = 2: ((1/2 * 2)^2 + (1/2)^2 - 1) / 2 - log(1/2) = 0.125 + 0.693147...
    capacity = gaussian_capacity(torch.tensor(2.0), torch.tensor(0.0))
    torch.testing.assert_close(capacity, torch.tensor(0.125 + math.log(2)))


@given(st.floats(-20, 20), st.floats(-12, 12))
def test_capacity_equals_the_kl_divergence_of_torch_distributions(x: float, alpha: float):
    lambda_ = 1 / (1 + math.exp(-alpha))
    posterior = Normal(torch.tensor(lambda_ * x, dtype=torch.float64), torch.tensor(1 - lambda_, dtype=torch.float64))
    expected = kl_divergence(posterior, Normal(torch.zeros((), dtype=torch.float64), 1.0))
    capacity = gaussian_capacity(torch.tensor(x, dtype=torch.float64), torch.tensor(alpha, dtype=torch.float64))
    torch.testing.assert_close(capacity, expected, rtol=1e-6, atol=1e-9)


@given(st.floats(-100, 100))
def test_capacity_and_its_gradient_are_finite_where_one_minus_lambda_underflows(alpha: float):
    logits = torch.tensor(alpha, requires_grad=True)
    capacity = gaussian_capacity(torch.tensor(3.0), logits)
    capacity.backward()
    assert torch.isfinite(capacity) and torch.isfinite(logits.grad)


def test_a_closed_mask_lets_nothing_through():
    torch.testing.assert_close(gaussian_capacity(torch.tensor(5.0), torch.tensor(-40.0)), torch.tensor(0.0))


def test_noise_depends_on_seed_step_and_modality_and_not_on_when_it_is_asked_for():
    bank, again = NoiseBank(1, 3), NoiseBank(1, 3)
    cpu = torch.device("cpu")
    late = [bank(step, "image", 6, 4, cpu) for step in (2, 0, 1)]
    torch.testing.assert_close(again(0, "image", 6, 4, cpu), late[1], rtol=0, atol=0)
    torch.testing.assert_close(again(2, "image", 6, 4, cpu), late[0], rtol=0, atol=0)
    for other in (NoiseBank(2, 3)(0, "image", 6, 4, cpu), bank(0, "text", 6, 4, cpu), bank(1, "image", 6, 4, cpu)):
        assert not torch.allclose(other, late[1])


def test_noise_is_standard_normal():
    noise = NoiseBank(0, 50)(0, "text", 40, 50, torch.device("cpu")).flatten().numpy()
    from scipy.stats import kstest

    assert kstest(noise, "norm").pvalue > 0.01
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_bottleneck_mixes_signal_and_noise_in_units_of_the_prior():
    hidden = hidden_states(read=None)
    prior = Prior(torch.tensor([1.0, -1.0, 0.5, 0.0]), torch.tensor([2.0, 0.5, 1.0, 3.0]), torch.zeros(4))
    bottleneck = InformationBottleneck(hidden, prior)
    torch.nn.init.normal_(bottleneck.alpha)
    noise = torch.randn(3, 9, 4)
    z = bottleneck(noise).detach().numpy()
    lambda_ = 1 / (1 + np.exp(-bottleneck.alpha.detach().numpy().astype(np.float64)))
    for k in range(3):
        for b in range(2):
            x = (hidden.states[b].numpy() - prior.mean.numpy()) / prior.std.numpy()
            mixed = lambda_[b] * x + (1 - lambda_[b]) * noise[k, :5].numpy()
            np.testing.assert_allclose(z[k, b], prior.mean.numpy() + prior.std.numpy() * mixed, atol=1e-5)


def test_an_open_bottleneck_returns_its_input():
    hidden = hidden_states()
    bottleneck = InformationBottleneck(hidden, unit_prior(4))
    torch.nn.init.constant_(bottleneck.alpha, 40.0)
    torch.testing.assert_close(bottleneck(torch.randn(2, 5, 4))[1], hidden.states)


@pytest.mark.parametrize("read_out", ["mean", "clean"])
def test_a_held_read_out_token_has_no_capacity_and_its_own_value(read_out: str):
    hidden = hidden_states(read=0)
    prior = Prior(torch.zeros(4), torch.ones(4), torch.arange(4.0))
    bottleneck = InformationBottleneck(hidden, prior, read_out)
    z = bottleneck(torch.randn(3, 5, 4))
    expected = prior.read_mean.expand(2, 4) if read_out == "mean" else hidden.states[:, 0]
    for sample in z:
        torch.testing.assert_close(sample[:, 0], expected)
    assert bottleneck.capacity()[:, 0].abs().sum() == 0
    assert not bottleneck.open[:, 0].any() and bottleneck.open[0, 1:].all()


def test_pairs_that_stay_keep_their_own_states_masks_and_read_out():
    hidden = hidden_states(3)._replace(read=torch.tensor([0, 1, 2]))
    whole = InformationBottleneck(hidden, unit_prior(4), "clean")
    whole.alpha.data = torch.randn(whole.alpha.shape, generator=torch.Generator().manual_seed(1))
    noise = torch.zeros(1, 5, 4)
    before, nats = whole(noise)[0], whole.capacity()
    whole.keep(torch.tensor([2, 0]))
    torch.testing.assert_close(whole.capacity(), nats[[2, 0]])
    torch.testing.assert_close(whole(noise)[0], before[[2, 0]])


def test_padding_has_no_capacity():
    bottleneck = InformationBottleneck(hidden_states(), unit_prior(4), "bottleneck")
    assert bottleneck.capacity()[1, 3:].abs().sum() == 0
    assert (bottleneck.capacity()[1, :3].sum(-1) > 0).all()


@pytest.mark.parametrize(("samples", "half"), [(1, 1), (2, 1), (5, 2), (8, 4)])
@pytest.mark.parametrize("antithetic", [True, False])
def test_half_a_bank_is_a_bank_of_half_the_samples(samples, half, antithetic):
    place = (3, "image", 4, 2, torch.device("cpu"))
    found = NoiseBank(7, samples, antithetic).half(*place)
    torch.testing.assert_close(found, NoiseBank(7, half, antithetic)(*place), rtol=0, atol=0)


def test_of_an_odd_number_of_antithetic_samples_all_are_there_and_one_stands_alone():
    noise = NoiseBank(0, 3, antithetic=True)(0, "image", 4, 2, torch.device("cpu"))
    assert noise.shape == (3, 4, 2) and torch.equal(noise[2], -noise[0])
    assert not torch.equal(noise[1], -noise[0])


def test_of_an_even_number_of_antithetic_samples_half_are_the_others_negated():
    noise = NoiseBank(0, 4, antithetic=True)(0, "image", 4, 2, torch.device("cpu"))
    assert noise.shape == (4, 4, 2) and torch.equal(noise[2:], -noise[:2])
    assert not torch.equal(noise[0].abs(), noise[1].abs())


def test_samples_are_drawn_apart_unless_they_are_asked_to_be_antithetic():
    noise = NoiseBank(0, 2)(0, "image", 4, 2, torch.device("cpu"))
    assert not torch.equal(noise[1], -noise[0])


def test_the_noise_of_a_seed_is_the_same_wherever_and_whenever_it_is_drawn():
    noise = NoiseBank(3, 1)(2, "text", 1, 4, torch.device("cpu"))
    torch.testing.assert_close(noise, torch.tensor([[[0.9309, -0.3341, -0.8172, -0.2345]]]), rtol=0, atol=1e-4)


def test_noise_is_kept_for_the_next_batch_until_it_takes_more_than_64_mebibytes():
    bank, shape = NoiseBank(0, 1), ("image", 2**12, 2**11, torch.device("cpu"))  # half of that each
    first = bank(0, *shape)
    bank(1, *shape), bank(2, *shape)
    assert bank(0, *shape) is first
    bank(3, *shape)
    assert bank(0, *shape) is not first and torch.equal(bank(0, *shape), first)


def test_masks_start_nearly_open_and_are_all_that_is_saved():
    bottleneck = InformationBottleneck(hidden_states(), unit_prior(4))
    torch.testing.assert_close(bottleneck.lambda_, torch.full((2, 5, 4), 0.9933), rtol=0, atol=1e-4)
    assert list(bottleneck.state_dict()) == ["alpha"] == [name for name, _ in bottleneck.named_parameters()]
    given = torch.randn(2, 5, 4)
    assert torch.equal(InformationBottleneck(hidden_states(), unit_prior(4), alpha=given).alpha.data, given)


@pytest.mark.parametrize("read_out", ["bottleneck", "mean", "clean"])
def test_where_the_head_reads_no_token_alone_all_are_masked(read_out: str):
    hidden = hidden_states(read=None)
    bottleneck = InformationBottleneck(hidden, unit_prior(4), read_out)
    assert torch.equal(bottleneck.open, hidden.valid)
    torch.nn.init.constant_(bottleneck.alpha, -40.0)
    noise = torch.randn(2, 5, 4)
    torch.testing.assert_close(bottleneck(noise)[:, 0], noise)
    bottleneck.keep(torch.tensor([1]))
    torch.testing.assert_close(bottleneck(noise)[:, 0], noise)


def test_capacity_and_states_can_be_asked_of_other_masks():
    bottleneck = InformationBottleneck(hidden_states(read=None), unit_prior(4))
    closed, noise = torch.full((2, 5, 4), -40.0), torch.randn(1, 5, 4)
    assert bottleneck.capacity(closed).abs().max() < 1e-6 < bottleneck.capacity()[0].min()
    torch.testing.assert_close(bottleneck(noise, torch.sigmoid(closed))[0, 0], noise[0])
