import numpy as np
import pytest
import torch

from m2ib_lightning.losses import Agreement, agreement
from tests.losses.made import tower


@pytest.mark.parametrize("seed", range(5))
def test_it_is_that_of_a_slow_float64_loop(seed):
    image, text = tower("image", seed=seed), tower("text", None, seed=seed + 50)
    expected = []
    for b in range(2):
        cosines = []
        for k in range(4):
            x, y = (seen.embedding[k, b].double().numpy() for seen in (image, text))
            cosines.append(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)))
        expected.append(np.mean(cosines))
    found = agreement(image.embedding, text.embedding).double()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(Agreement()(image, text).double(), found)


def test_it_is_maximised_and_depends_on_both():
    image, text = tower("image"), tower("text", None, seed=1)
    assert Agreement.maximised and not Agreement.weighed_by_beta
    embeddings = [seen.embedding.requires_grad_() for seen in (image, text)]
    Agreement()(image, text).sum().backward()
    assert all(float(e.grad.abs().sum()) > 0 for e in embeddings)
