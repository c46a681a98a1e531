from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from m2ib_lightning.data import make_scene

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import tune_colours

    return tune_colours


def test_a_caption_with_a_colour_matches_that_colour_only(script):
    _, caption, shown, named = script.Scenes(2_000_001, 2_000_002)[0]
    first, other, *rest = make_scene(2_000_001, kind="attribute").objects
    assert f"{first.colour} {first.name}" in caption and first.name == other.name

    def terms(flags):
        return {term for term, flag in zip(script.TERMS, flags.tolist(), strict=True) if flag}

    both = {first.name, f"{first.colour} {first.name}", f"{other.colour} {first.name}"}
    assert terms(shown) == both | {item.name for item in rest}
    assert terms(named) == both - {f"{other.colour} {first.name}"}


@pytest.mark.slow
def test_the_embedded_model_knows_no_colours_and_a_few_steps_lower_the_loss(script):
    torch.manual_seed(0)
    embedder = script.load(script.PACKAGED)
    assert script.colours_known(embedder, 60) < 0.4
    (batch,) = DataLoader(script.Scenes(2_000_000, 2_000_032), 32)

    def loss():
        with torch.no_grad():
            return script.loss(embedder, batch, np.random.default_rng(0)).item()

    before = loss()
    optimizer = torch.optim.AdamW(embedder.model.parameters(), lr=1e-3)
    for _ in range(3):
        script.loss(embedder, batch, np.random.default_rng(0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss() < 0.9 * before
