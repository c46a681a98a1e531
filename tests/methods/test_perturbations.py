"""Occlusion, RISE and KernelSHAP against slow loops and exact Shapley values on the library's model."""

import itertools
import math

import numpy as np
import pytest
import torch

from m2ib_lightning.methods import RISE, KernelSHAP, Occlusion
from m2ib_lightning.methods.baselines.kernel_shap import draw_coalitions, shapley, with_ends
from m2ib_lightning.methods.baselines.occlusion import windows
from m2ib_lightning.methods.baselines.rise import coarse_masks
from m2ib_lightning.methods.objective import objectives
from tests.methods.agreement import assert_agrees


def masked(x, cells, grid):
    """The input with the cells (n,) that are 0 hidden: patches of an image, content tokens of a text."""
    if grid is None:
        keep = torch.ones(len(x), dtype=torch.float64)
        keep[1:-1] = cells
        return x * keep[:, None]
    sides = x.shape[1] // grid[0], x.shape[2] // grid[1]
    keep = cells.reshape(grid).repeat_interleave(sides[0], 0).repeat_interleave(sides[1], 1)
    return x * keep


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 2])
def test_occlusion_is_the_mean_fall_over_windows(backbone, library, pairs, window):
    def reference(library, modality, batch, x):
        f = library.cosine(modality, batch)
        grid = backbone.image.grid(batch) if modality == "image" else None
        if grid is None:
            values = torch.zeros(len(x), dtype=torch.float64)
            for i in range(1, len(x) - 1):
                cells = torch.ones(len(x) - 2, dtype=torch.float64)
                cells[i - 1] = 0
                values[i] = f(x) - f(masked(x, cells, None))
            return values
        total, count = torch.zeros(2, *grid, dtype=torch.float64)
        for r, c in itertools.product(range(grid[0] - window + 1), range(grid[1] - window + 1)):
            cells = torch.ones(grid, dtype=torch.float64)
            cells[r : r + window, c : c + window] = 0
            total += (1 - cells) * (f(x) - f(masked(x, cells, grid)))
            count += 1 - cells
        return (total / count).flatten()

    assert_agrees(Occlusion(backbone, window=window), library, pairs[:2], reference, tolerance=1e-3)


@torch.no_grad()
@pytest.mark.slow
def test_rise_is_the_mean_of_masks_weighed_by_their_scores(backbone, library, pairs):
    method = RISE(backbone, samples=70)

    def reference(library, modality, batch, x):
        objective, f = objectives(backbone, batch)[modality], library.cosine(modality, batch)
        generator = torch.Generator().manual_seed(0)
        total = 0
        for count in (64, 6):
            for mask in method.masks(objective, count, generator).double():
                if modality == "image":
                    total = total + f(x * mask) * mask
                else:
                    total = total + f(masked(x, mask[1:-1], None)) * mask
        total = total / (70 * 0.5)
        if modality == "text":
            total[0] = total[-1] = 0
            return total
        rows, columns = objective.grid
        return torch.stack([part.mean() for row in total.chunk(rows) for part in row.chunk(columns, 1)])

    assert_agrees(method, library, pairs[:2], reference)


def test_what_a_mask_hides_is_the_filling_and_what_it_shows_is_the_picture(backbone, pairs):
    objective = objectives(backbone, backbone.preprocess_pairs(pairs))["image"]
    masks = torch.stack([torch.full((1, *objective.grid), value) for value in (0.0, 0.25, 1.0)])
    hidden, mixed, shown = objective.blend(masks, torch.tensor(7.0))
    torch.testing.assert_close(hidden, torch.full_like(hidden, 7.0))
    torch.testing.assert_close(mixed, 0.25 * objective.inputs + 0.75 * 7.0)
    torch.testing.assert_close(shown, objective.inputs)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_many_masked_copies_of_a_batch_are_embedded_a_few_at_a_time(modality, backbone, pairs, monkeypatch):
    objective = objectives(backbone, backbone.preprocess_pairs(pairs))[modality]
    tokens, width = objective.hidden.states.shape[1:]
    at_once, fits = [], 2**21 // (len(pairs) * tokens * width)
    monkeypatch.setattr(objective, "blend", lambda masks, fill: masks)
    monkeypatch.setattr(objective, "embed", lambda masks: (at_once.append(len(masks)), masks)[1])
    shape = objective.grid or (tokens,)
    assert len(objective.masked_embeddings(torch.ones(2 * fits + 1, 1, *shape))) == 2 * fits + 1
    assert at_once == [fits, fits, 1]


def test_masks_of_rise_keep_their_share_and_have_no_border():
    masks = coarse_masks(500, (96, 90), 7, 0.5, torch.Generator().manual_seed(0))
    assert masks.shape == (500, 96, 90) and masks.min() >= 0 and masks.max() <= 1
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.02)
    assert float((masks.mean(0) - 0.5).abs().max()) < 0.12


def test_masks_of_rise_have_as_many_edges_along_one_side_as_along_the_other():
    masks = coarse_masks(100, (70, 70), 7, 0.5, torch.Generator().manual_seed(0))
    down, across = (float(masks.diff(dim=dim).abs().sum()) for dim in (1, 2))
    assert down == pytest.approx(across, rel=0.1)


def test_every_window_lies_within_the_grid_and_is_two_patches_wide_unless_told_otherwise():
    found = windows((3, 4), Occlusion().window)
    assert len(found) == 2 * 3 and (found.sum((1, 2)) == 2 * 2).all()
    assert found.sum(0).tolist() == [[1, 2, 2, 1], [2, 4, 4, 2], [1, 2, 2, 1]]


def exact(f, players):
    """Shapley values from the definition, over all coalitions."""
    value = {s: float(f(torch.tensor(s))) for s in itertools.product((0.0, 1.0), repeat=players)}
    phi = np.zeros(players)
    for s, v in value.items():
        size = int(sum(s))
        for i in range(players):
            if s[i]:
                without = tuple(0.0 if j == i else x for j, x in enumerate(s))
                weight = math.factorial(size - 1) * math.factorial(players - size) / math.factorial(players)
                phi[i] += weight * (v - value[without])
    return phi


@torch.no_grad()
@pytest.mark.slow
def test_kernel_shap_over_all_coalitions_gives_shapley_values(backbone, library, pairs):
    short = [pair for pair in pairs if len(pair.text.split()) <= 7]
    results = KernelSHAP(backbone, modalities=["text"], samples=300).attribute(backbone.preprocess_pairs(short))
    assert len(short) >= 1
    for result, pair in zip(results, short, strict=True):
        batch, _, x = library.single(backbone, pair)
        f = library.cosine("text", batch)
        expected = exact(lambda cells, x=x, f=f: f(masked(x, cells, None)), len(x) - 2)
        np.testing.assert_allclose(result.text_map[1:-1], expected, atol=2e-4 * np.abs(expected).max() + 2e-6)


def test_kernel_shap_of_a_small_game_is_exact():
    torch.manual_seed(0)
    a = torch.randn(4, 4)

    def game(z):
        return ((z @ a) * z).sum(-1)

    coalitions, weights = draw_coalitions(4, 14, seed=0)
    found = shapley(coalitions, weights, game(with_ends(coalitions))[:, None])[:, 0]
    np.testing.assert_allclose(found.numpy(), exact(game, 4), atol=1e-4)


def test_no_coalition_that_is_drawn_is_empty_or_whole_and_each_comes_with_the_others():
    coalitions, _ = draw_coalitions(12, 1000, seed=0)
    assert coalitions.sum(1).unique().tolist() == list(range(1, 12))
    torch.testing.assert_close(coalitions[:500], 1 - coalitions[500:])


def test_kernel_shap_of_an_additive_game_with_few_samples_gives_the_summands():
    players, worth = 20, torch.arange(20.0)
    coalitions, weights = draw_coalitions(players, 200, seed=0)
    scores = (with_ends(coalitions) @ worth + 5)[:, None]
    torch.testing.assert_close(shapley(coalitions, weights, scores)[:, 0], worth, atol=1e-2, rtol=1e-2)


def test_sampled_kernel_shap_is_near_the_exact_one():
    torch.manual_seed(0)
    a, players = torch.randn(9, 9) / 9, 9

    def game(z):
        return torch.tanh(((z @ a) * z).sum(-1))

    coalitions, weights = draw_coalitions(players, 500, seed=1)  # of 510
    expected = torch.tensor(exact(game, players), dtype=torch.float32)
    found = shapley(coalitions, weights, game(with_ends(coalitions))[:, None])[:, 0]
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.slow
def test_kernel_shap_agrees_with_captum():
    from captum.attr import KernelShap

    torch.manual_seed(0)
    a = torch.randn(5, 5) / 5

    def game(z):
        return ((z @ a) * z).sum(-1)

    coalitions, weights = draw_coalitions(5, 100, seed=0)
    ours = shapley(coalitions, weights, game(with_ends(coalitions))[:, None])[:, 0]
    theirs = KernelShap(game).attribute(torch.ones(1, 5), n_samples=20_000, perturbations_per_eval=1000)[0]
    # Captum draws its coalitions: what is left is their noise.
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)
