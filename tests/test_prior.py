import numpy as np
import pytest
import torch

from m2ib_lightning.prior import PriorStatistics, read_priors, unit_prior, write_priors
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
