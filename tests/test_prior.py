from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from m2ib_lightning.prior import Prior, PriorStatistics, read_priors, unit_prior, write_priors
from m2ib_lightning.types import HiddenStates


def batches() -> list[HiddenStates]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for size in (3, 2):
        states = 4 * torch.randn(size, 6, 5, generator=generator) + 7
        valid = torch.arange(6) < torch.tensor([[6], [4], [5]])[:size]
        made.append(HiddenStates(states, valid, ~valid, torch.tensor([5, 3, 4])[:size]))
    return made


@pytest.mark.parametrize("layer", ["embeddings", 2])
def test_prior_is_the_mean_and_deviation_that_numpy_finds(layer):
    statistics = PriorStatistics(layer)
    tokens, reads = [], []
    for hidden in batches():
        statistics.update(hidden)
        for states, valid, read in zip(hidden.states, hidden.valid, hidden.read, strict=True):
            keep = valid.clone()
            if layer != "embeddings":
                keep[read] = False
            tokens += list(states[keep].numpy())
            reads.append(states[read].numpy())
    prior = statistics.prior()
    np.testing.assert_allclose(prior.mean, np.mean(tokens, 0), rtol=1e-5)
    np.testing.assert_allclose(prior.std, np.std(tokens, 0), rtol=1e-5)
    np.testing.assert_allclose(prior.read_mean, np.mean(reads, 0), rtol=1e-5)


def test_a_channel_that_never_varies_keeps_a_positive_deviation():
    statistics = PriorStatistics("embeddings")
    states = torch.randn(2, 4, 3)
    states[..., 1] = 2.0
    valid = torch.ones(2, 4, dtype=torch.bool)
    statistics.update(HiddenStates(states, valid, ~valid, None))
    assert (statistics.prior().std > 0).all()


def test_nothing_measured_is_said():
    with pytest.raises(RuntimeError, match="call `update` first"):
        PriorStatistics(0).prior()


def test_priors_survive_their_file(tmp_path):
    write_priors(tmp_path / "p.safetensors", {"image": unit_prior(4)}, weights="abc")
    priors, said = read_priors(tmp_path / "p.safetensors")
    assert said == {"weights": "abc"}
    torch.testing.assert_close(priors["image"].std, torch.ones(4))


def test_a_missing_file_of_priors_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*nothing.*Remedy"):
        read_priors(tmp_path / "nothing")


def test_the_least_deviation_is_a_thousandth_of_what_channels_deviate_by_together():
    statistics = PriorStatistics("embeddings")
    valid = torch.ones(1, 2, dtype=torch.bool)
    # Deviations 0.3, 0.0001 and 0: the root of the mean variance is 0.3 / sqrt(3).
    states = torch.tensor([[[0.3, 0.0001, 2.0], [-0.3, -0.0001, 2.0]]])
    statistics.update(HiddenStates(states, valid, ~valid, None))
    least = 0.3e-3 / np.sqrt(3)
    np.testing.assert_allclose(statistics.prior().std, [0.3, least, least], rtol=1e-5)
    np.testing.assert_allclose(statistics.prior().mean, [0, 0, 2], atol=1e-6)


def test_states_that_never_vary_at_all_have_a_deviation_above_0_and_no_token_that_is_read():
    statistics = PriorStatistics(3)
    valid = torch.ones(1, 2, dtype=torch.bool)
    statistics.update(HiddenStates(torch.ones(1, 2, 3), valid, ~valid, None))
    prior = statistics.prior()
    assert (prior.std > 0).all() and (prior.std < 1e-9).all()
    assert prior.read_mean.tolist() == [0, 0, 0]


def test_the_one_token_that_was_read_is_its_own_mean():
    statistics = PriorStatistics(3)
    valid = torch.ones(1, 2, dtype=torch.bool)
    states = torch.tensor([[[4.0, 6.0], [1.0, 3.0]]])
    statistics.update(HiddenStates(states, valid, ~valid, torch.tensor([0])))
    assert statistics.prior().read_mean.tolist() == [4, 6] and statistics.prior().mean.tolist() == [1, 3]


def test_a_prior_is_not_changed_in_its_place():
    with pytest.raises(FrozenInstanceError):
        unit_prior(2).std = torch.zeros(2)


def test_what_is_said_of_priors_comes_back_whatever_its_order(tmp_path):
    said = {name: name.upper() for name in "zyxwvutsrqponm"}
    write_priors(tmp_path / "p", {"text": unit_prior(2), "image": unit_prior(3)}, **said)
    priors, found = read_priors(tmp_path / "p")
    assert found == said and {name: len(prior.mean) for name, prior in priors.items()} == {"image": 3, "text": 2}


@pytest.mark.parametrize(("mean", "std"), [(float("nan"), 1.0), (0.0, float("inf")), (0.0, 0.0), (0.0, -1.0)])
def test_priors_that_no_noise_can_be_drawn_from_are_refused(mean, std, tmp_path):
    bad = Prior(torch.tensor([0.0, mean]), torch.tensor([0.5, std]), torch.zeros(2))
    write_priors(tmp_path / "p", {"image": bad, "text": unit_prior(2)})
    with pytest.raises(ValueError, match=r"not finite, or deviations that are not positive\. Remedy"):
        read_priors(tmp_path / "p")


def test_a_small_deviation_is_as_good_as_a_large_one(tmp_path):
    small = Prior(torch.zeros(2), torch.tensor([1e-9, 1e9]), torch.zeros(2))
    write_priors(tmp_path / "p", {"image": small})
    torch.testing.assert_close(read_priors(tmp_path / "p")[0]["image"].std, small.std)
