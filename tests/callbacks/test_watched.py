import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning.callbacks.watched import BINS, Histogram, Watched, mask_histograms, read_states
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import M2IB
from tests.methods.made import quiet_trainer


def watched(alpha: list, open_: list, row: int = 0) -> Watched:
    bottleneck = SimpleNamespace(alpha=torch.tensor(alpha), open=torch.tensor(open_))
    return Watched(SimpleNamespace(towers=("text",), bottleneck=lambda modality: bottleneck), row)


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_mask_values_are_counted_in_32_buckets_of_what_is_masked():
    shares = [0.01, 0.03, 0.04, 0.5, 0.51, 0.99]
    alpha = [[[0.0] * 6] * 3, [[logit(share) for share in shares], [9.0] * 6, [-200.0, 200.0, 0.0, 0.0, 0.0, 0.0]]]
    (found,) = mask_histograms(watched(alpha, [[True] * 3, [True, False, True]], row=1)).values()
    assert isinstance(found, Histogram) and len(found.counts) == BINS == 32
    assert {place: count for place, count in enumerate(found.counts) if count} == {0: 3, 1: 1, 16: 6, 31: 2}
    values = [*shares, 0, 1, 0.5, 0.5, 0.5, 0.5]
    assert found.total == pytest.approx(sum(values), rel=1e-5)
    assert found.squares == pytest.approx(sum(value**2 for value in values), rel=1e-5)


def test_masks_of_less_precision_are_counted_alike():
    held = watched([[[-3.0, 0.0, 3.0]]], [[True]])
    before = mask_histograms(held)["text"]
    held.fit.bottleneck("text").alpha = held.fit.bottleneck("text").alpha.bfloat16()
    after = mask_histograms(held)["text"]
    assert after.counts == before.counts and after.total == pytest.approx(before.total, abs=1e-3)


def test_states_are_those_of_their_pairs_in_the_order_asked_for():
    method = M2IB("embedded", noise_samples=2)
    quiet_trainer(max_epochs=2).fit(method, PairDataModule(scenes=3, batch_size=2))
    first, second = method.mask_fits
    wanted = [Watched(second, 0), Watched(first, 1), Watched(first, 0)]
    assert [w.id for w in wanted] == ["scene-000002", "scene-000001", "scene-000000"]
    states, found = read_states(wanted, 2), {a.id: a for a in method.attributions()}
    for (fit, row), state in zip(wanted, states, strict=True):
        a = found[state.capacity.id]
        assert a.id == Watched(fit, row).id == state.mask.id and state.step == 2
        assert state.loss == pytest.approx(float(a.history["loss/total"][1]), rel=1e-6)
        assert a.history["loss/total"][0] != a.history["loss/total"][1]
        np.testing.assert_allclose(state.capacity.image_map, a.image_map, rtol=1e-5)
        assert state.capacity.unit == "nats" and state.capacity.score == pytest.approx(a.score)
        assert 0 <= state.mask.image_map.min() <= state.mask.image_map.max() <= 1
        np.testing.assert_array_equal(state.mask.special, a.special)
    assert [math.isnan(state.loss) for state in read_states(wanted[:2], 0)] == [True, True]
