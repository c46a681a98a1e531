"""What ROAR+ removes, and what it leaves alone."""

import sys
from pathlib import Path

import numpy as np
import torch

from m2ib_lightning import load_backbone
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import RandomMap
from m2ib_lightning.types import Pair

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from retraining import Tuning, padding_id, removed_pixels, removed_tokens, roar


def test_the_highest_quarter_of_the_pixels_becomes_the_mean():
    pixels = torch.arange(32.0).reshape(1, 2, 4, 4)
    found = removed_pixels(pixels, torch.arange(16.0).reshape(1, 4, 4), torch.tensor([-1.0, -2.0]))
    expected = pixels.clone()
    expected[0, 0, 3], expected[0, 1, 3] = -1, -2
    assert torch.equal(found, expected)
    assert torch.equal(removed_pixels(pixels, torch.ones(1, 4, 4), torch.zeros(2)), pixels)


def test_the_highest_content_tokens_become_padding():
    values = np.array([99, 1, 2, 5, 3, 99], dtype=np.float32)
    special = np.array([True, False, False, False, False, True])
    a = Attribution("", "", None, values, list("abcdef"), special, [(0, 0)] * 6, 0.0)
    ids = torch.tensor([[10, 11, 12, 13, 14, 15, 16]])
    assert removed_tokens(ids, [a], padding=7).tolist() == [[10, 11, 12, 7, 14, 15, 16]]
    assert ids[0, 3] == 13


def test_a_seed_gives_the_same_numbers_and_the_original_is_untouched():
    backbone = load_backbone("embedded")
    made = [make_scene(700 + i, named=3) for i in range(9)]
    pairs = [Pair(str(i), scene.image, scene.text) for i, scene in enumerate(made)]
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    losses = [[], []]
    tuning = Tuning(steps=2, batch_size=4)
    hits = [
        roar(RandomMap(backbone), backbone, pairs[:5], pairs[5:], tuning, lambda _, loss, kept=kept: kept.append(loss))
        for kept in losses
    ]
    assert torch.equal(*hits) and losses[0] == losses[1] and len(losses[0]) == 2
    assert set(hits[0].tolist()) <= {0, 0.5, 1} and len(hits[0]) == 4
    assert all(torch.equal(before[name], value) for name, value in backbone.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())
    assert padding_id(backbone) != backbone.processor.tokenizer.eos_token_id
