import math

import pytest
import torch

from m2ib_lightning.losses import TotalVariation, total_variation
from tests.losses.made import tower


@pytest.mark.parametrize("seed", range(5))
def test_it_is_that_of_a_slow_float64_loop(seed):
    mask = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    expected = []
    for cells in mask.double().numpy():
        total, count = 0.0, 0
        for i in range(3):
            for j in range(4):
                for d in range(5):
                    for down, right in ((1, 0), (0, 1)):
                        if i + down < 3 and j + right < 4:
                            total += math.hypot(cells[i + down, j + right, d] - cells[i, j, d], 0.01) - 0.01
                            count += 1
        expected.append(total / count)
    torch.testing.assert_close(total_variation(mask).double(), torch.tensor(expected, dtype=torch.float64))


def test_a_step_by_hand():
    # Rows (0, 1), (0, 1): of four pairs of neighbours the two across differ, by 1, smoothed to 1.00005 - 0.01.
    found = total_variation(torch.tensor([[0.0, 1], [0, 1]])[None, ..., None])
    torch.testing.assert_close(found, torch.tensor([0.495025]), rtol=1e-5, atol=0)
    assert total_variation(torch.rand(1, 1, 1, 3)) == 0


def test_the_term_looks_at_the_patches_of_the_image_alone():
    seen = tower("image")
    torch.testing.assert_close(TotalVariation()(seen), total_variation(seen.lambda_[:, 1:].reshape(2, 2, 3, 4)))
    assert TotalVariation()(tower("text", None)).tolist() == [0, 0]


def test_images_of_several_grids_are_refused():
    with pytest.raises(ValueError, match="one grid"):
        TotalVariation()(tower("image")._replace(grid=None))


def test_two_cells_have_one_difference_across_or_down():
    for shape in ((1, 1, 2, 1), (1, 2, 1, 1)):
        # sqrt(1 + 0.0001) - 0.01
        torch.testing.assert_close(total_variation(torch.tensor([0.0, 1.0]).reshape(shape)), torch.tensor([0.99005]))
