"""The step that a GPU replays, run here without a graph: the same numbers as the plain one, bit for bit."""

import numpy as np
import pytest
import torch

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.captured import CapturedSteps, fill_batch, pad_texts
from tests.methods.test_m2ib import assert_same_maps, scene_pairs


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


def captured(method: M2IB, *pair_lists) -> list:
    """Results of the last of some batches of one shape that went through the same place."""
    backbone = method.prepare()
    fits = [method.new_fit(pad_texts(backbone.preprocess_pairs(pairs), backbone.text.length)) for pairs in pair_lists]
    steps = CapturedSteps(fits[0], method.new_optimizer(fits[0].parameters()), graph=False)
    for fit in fits:
        done = steps.run(fit, method.steps)
    return method.results(done)


@pytest.mark.parametrize("arguments", [{}, {"tolerance": 0.02, "steps": 25}])
def test_a_replayed_step_gives_the_plain_steps_numbers_for_every_batch(embedded, arguments):
    method = M2IB(embedded, noise_samples=2, modalities=["image"], **arguments)
    first, second = scene_pairs(6)[:3], scene_pairs(6)[3:]
    for last in (first, second):
        plain = method.attribute(pad_texts(embedded.preprocess_pairs(last), embedded.text.length))
        for a, b in zip(captured(method, first, last), plain, strict=True):
            assert (a.id, a.steps, a.stop_reason, a.score) == (b.id, b.steps, b.stop_reason, b.score)
            # Dropped rows change how sums are blocked; without them it is the same to the bit.
            assert_same_maps(a, b, tolerance=1e-2 if arguments else 0.0)
            for name, values in b.history.items():
                np.testing.assert_allclose(a.history[name], values, rtol=0, atol=5e-3 if arguments else 0)


def test_padding_of_texts_and_of_a_batch_changes_no_pair(embedded):
    method, pairs = M2IB(embedded, noise_samples=2, steps=4), scene_pairs(3)
    plain = embedded.preprocess_pairs(pairs)
    padded = fill_batch(pad_texts(plain, embedded.text.length), 5)
    assert padded.input_ids.shape[1] % 8 == 0 and len(padded.tokens) == 5
    for a, b in zip(method.attribute(padded)[:3], method.attribute(plain), strict=True):
        assert a.tokens == b.tokens
        assert_same_maps(a, b)


@pytest.mark.parametrize("words", range(1, 12))
def test_texts_are_padded_to_a_multiple_of_8_or_to_all_that_is_read(embedded, words):
    scene = make_scene(3)
    batch = embedded.preprocess([scene.image], [" ".join(["a"] * words)])
    length = batch.input_ids.shape[1]
    padded = pad_texts(batch, embedded.text.length)
    assert padded.input_ids.shape == padded.attention_mask.shape == (1, length + -length % 8)
    assert not padded.attention_mask[:, length:].any()
    assert pad_texts(batch, length + 1).input_ids.shape[1] == min(length + 1, length + -length % 8)


def test_a_pair_that_diverges_is_held_as_it_was(embedded):
    method = M2IB(embedded, noise_samples=2, steps=3, modalities=["image"])
    fit = method.new_fit(embedded.preprocess_pairs(scene_pairs(2)))
    steps = CapturedSteps(fit, method.new_optimizer(fit.parameters()), graph=False)
    fit.clean["text"][0] = torch.nan  # its loss is nan from the first step on
    done = steps.run(fit, 3)
    assert done.stopping.reason.tolist() == [3, 0] and done.stopping.updates.tolist() == [0, 3]
    assert float(done.bottleneck("image").alpha[0].min()) == method.initial_alpha
