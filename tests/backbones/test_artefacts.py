from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.backbones.artefacts import Artefacts, find_artefacts
from tests.backbones.compare import TEXTS, pictures
from tests.checkpoints import random_clip


def test_a_patch_made_long_is_found_and_only_that_one(tmp_path, monkeypatch):
    backbone = load_backbone(str(random_clip(tmp_path)))
    batch = backbone.preprocess(pictures(), TEXTS)
    hidden = backbone.image.prefix(batch, 1)
    hidden.states[1, 1 + 4 * 2 + 3] *= 20  # behind CLS: row 2, column 3
    monkeypatch.setattr(backbone.image, "prefix", lambda *_: hidden)
    before, found = [report.outlying for report in find_artefacts(backbone, batch, 1, times=10)][:2]
    assert not before.any() and np.argwhere(found).tolist() == [[2, 3]]


def test_filling_leaves_the_map_and_the_other_cells_as_they_are():
    norms = np.ones((3, 3), dtype=np.float32)
    outlying = np.zeros((3, 3), dtype=bool)
    outlying[1, 1] = outlying[0, 1] = True
    given = np.arange(9, dtype=np.float32).reshape(3, 3)
    filled = Artefacts(norms, outlying).fill(given)
    # Around the centre, without itself and the cell above it: 0 2 3 5 6 7 8.
    assert filled[1, 1] == 5 and given[1, 1] == 4
    np.testing.assert_array_equal(filled[~outlying], given[~outlying])


def test_a_filled_cell_has_the_median_of_its_own_neighbours_and_of_no_other():
    given = np.arange(36, dtype=np.float32).reshape(6, 6) ** 2
    for row in range(6):
        for column in range(6):
            outlying = np.zeros((6, 6), dtype=bool)
            outlying[row, column] = True
            near = [given[r, c] for r in range(6) for c in range(6) if max(abs(r - row), abs(c - column)) == 1]
            assert Artefacts(np.ones((6, 6), np.float32), outlying).fill(given)[row, column] == np.median(near)


def test_a_map_of_another_shape_and_a_bad_threshold_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same picture"):
        Artefacts(np.ones((2, 2), np.float32), np.zeros((2, 2), bool)).fill(np.ones((2, 3), np.float32))
    backbone = load_backbone(str(random_clip(tmp_path)))
    with pytest.raises(ValueError, match="above 1"):
        find_artefacts(backbone, backbone.preprocess(pictures(), TEXTS), 1, times=1)


def test_a_patch_is_outlying_where_it_is_longer_than_twice_the_median_and_not_where_it_is_as_long():
    norms = torch.tensor([[9.0, 1, 2, 1, 1.999, 2.001, 1], [9.0, 4, 4, 4, 4, 4, 4]])
    special = torch.zeros(2, 7, dtype=torch.bool)
    special[:, 0] = True
    hidden = SimpleNamespace(states=norms[..., None] * torch.tensor([0.6, -0.8]), special=special)
    tower = SimpleNamespace(prefix=lambda batch, layer: hidden, grids=lambda batch: [(2, 3), (3, 2)])
    found, even = find_artefacts(SimpleNamespace(image=tower), None, 1)
    # The median of six is the lower one of the middle two, 1.
    assert found.outlying.tolist() == [[False, False, False], [False, True, False]]
    np.testing.assert_allclose(found.norms, [[1, 2, 1], [1.999, 2.001, 1]], rtol=1e-6)
    assert even.norms.shape == (3, 2) and not even.outlying.any()
    found, _ = find_artefacts(SimpleNamespace(image=tower), None, 1, times=1.5)
    assert found.outlying.sum() == 3


@pytest.mark.parametrize("times", [1, 1.0, 0.5])
def test_what_is_not_longer_than_the_median_is_no_threshold(times):
    with pytest.raises(ValueError, match=f"`times` to be above 1 but got {times}"):
        find_artefacts(None, None, 1, times)


def test_a_cell_whose_neighbours_are_all_outlying_gets_0():
    filled = Artefacts(np.ones((2, 2), np.float32), np.ones((2, 2), bool)).fill(np.ones((2, 2), np.float32))
    assert filled.tolist() == [[0, 0], [0, 0]]
