"""Occlusion, RISE and KernelSHAP against slow loops and exact Shapley values on the library's model."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning.methods.baselines.kernel_shap import KernelSHAP, draw_coalitions, shapley, with_ends
from m2ib_lightning.methods.baselines.occlusion import Occlusion, windows
from m2ib_lightning.methods.baselines.rise import RISE, coarse_masks
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


def additive(worth, grid=None, content=None):
    """An objective that is the sum of what each shown part is worth, (b, ...)."""
    axes = tuple(range(2, worth.ndim + 1))

    def masked(masks):
        shown = masks if content is None else torch.where(content, masks, 1.0)
        return (shown * worth).sum(axes)

    clean = worth.flatten(1).sum(1)
    content = torch.ones(worth.shape, dtype=torch.bool) if content is None else content
    inputs = torch.zeros(*worth.shape[: 1 if grid else 2], 3, *worth.shape[1 if grid else 2 :])
    return SimpleNamespace(masked=masked, clean=clean, grid=grid, content=content, inputs=inputs)


def test_occlusion_of_what_adds_up_is_the_mean_of_the_windows_that_cover_a_patch():
    worth = torch.tensor([[[1.0, 2.0, 4.0]], [[0.0, 1.0, 0.0]]])
    objective = additive(worth, grid=(1, 3))
    torch.testing.assert_close(Occlusion(window=1).relevance(objective), worth)
    # Windows of 1 + 2 and of 2 + 4; the middle is covered by both.
    expected = torch.tensor([[[3.0, 4.5, 6.0]], [[1.0, 1.0, 1.0]]])
    torch.testing.assert_close(Occlusion().relevance(objective), expected)


def test_occlusion_of_a_text_hides_one_token_after_the_other_and_no_special_one():
    worth = torch.tensor([[5.0, 1.0, 2.0, 5.0], [5.0, 3.0, 5.0, 0.0]])
    content = torch.tensor([[False, True, True, False], [False, True, False, False]])
    found = Occlusion().relevance(additive(worth, content=content))
    torch.testing.assert_close(found, worth * content)


def test_windows_larger_than_a_grid_are_the_grid():
    assert windows((2, 3), 3).tolist() == [[[1, 1, 1], [1, 1, 1]]]
    assert windows((3, 1), 2)[..., 0].tolist() == [[1, 1, 0], [0, 1, 1]]


def test_rise_is_the_mean_of_masks_weighed_by_what_they_leave_sixty_four_at_a_time():
    worth = torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(1))
    objective = additive(worth, grid=(3, 5))
    objective.inputs = torch.zeros(2, 3, 12, 10)
    generator, total = torch.Generator().manual_seed(3), torch.zeros(2, 3, 5)
    for count in (64, 6):
        for mask in coarse_masks(count, (12, 10), 4, 0.3, generator):
            left = (mask * worth).sum((1, 2))
            total += left[:, None, None] * mask.reshape(3, 4, 5, 2).mean((1, 3))
    found = RISE(samples=70, cells=4, keep=0.3, seed=3).relevance(objective)
    torch.testing.assert_close(found, total / (70 * 0.3))


def test_rise_of_a_text_draws_tokens_and_gives_special_ones_nothing():
    worth = torch.tensor([[5.0, 1.0, 2.0, 5.0]])
    objective = additive(worth, content=torch.tensor([[False, True, True, False]]))
    drawn = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0.0]])[:, None]
    objective.random_masks = lambda count, keep, generator: drawn[:count]
    # What is left: 10 + 1, 10 + 3 and 10, over three masks of which half is kept.
    found = RISE(samples=3).relevance(objective)
    torch.testing.assert_close(found, torch.tensor([[0.0, 24.0, 13.0, 0.0]]) / 1.5)


def test_masks_of_rise_rise_from_0_to_1_over_a_cell_of_the_enlarged_grid():
    masks = coarse_masks(60, (96, 90), 7, 0.5, torch.Generator().manual_seed(0))
    # Cells of ceil(96 / 7) = 14 by 13 pixels, and one more of each than there are values: 7 values over 8 cells.
    for dim, side in ((1, 14), (2, 13)):
        assert float(masks.diff(dim=dim).abs().max()) == pytest.approx(7 / (8 * side), rel=1e-4)
    rare = coarse_masks(200, (20, 20), 5, 0.1, torch.Generator().manual_seed(0))
    assert float(rare.mean()) == pytest.approx(0.1, abs=0.02)


def test_masks_of_rise_are_shifted_by_less_than_a_cell_each_way():
    masks = coarse_masks(400, (4, 6), 1, 0.5, torch.Generator().manual_seed(0))
    assert masks.shape == (400, 4, 6) and set(masks.flatten(1).mean(1).tolist()) == {0.0, 1.0}
    assert coarse_masks(3, (7, 5), 7, 0.5, torch.Generator().manual_seed(0)).shape == (3, 7, 5)


def test_shapley_values_of_what_adds_up_are_what_each_part_is_worth_in_texts_of_any_length():
    worth = torch.tensor([[9.0, 1, 2, 4, 8, 9], [9, 3, 9, 0, 0, 0], [9, 9, 0, 0, 0, 0], [9, 5, 7, 9, 0, 0]])
    content = torch.zeros(4, 6, dtype=torch.bool)
    for row, count in enumerate((4, 1, 0, 2)):
        content[row, 1 : 1 + count] = True
    for samples in (14, 2, 1000):
        found = KernelSHAP(samples=samples).relevance(additive(worth, content=content))
        exact = slice(0 if samples > 2 else 1, None)  # two coalitions of four players say too little
        torch.testing.assert_close(found[exact], (worth * content)[exact], rtol=0, atol=1e-4)
        torch.testing.assert_close(found.sum(1), (worth * content).sum(1), rtol=0, atol=1e-4)


def test_shapley_values_of_patches_stand_where_the_patches_are():
    worth = torch.tensor([[[1.0, 2, 4], [8, 16, 32]]])
    found = KernelSHAP(samples=62).relevance(additive(worth, grid=(2, 3)))
    torch.testing.assert_close(found, worth, rtol=0, atol=1e-3)


def test_all_coalitions_are_taken_where_they_are_no_more_than_asked_for():
    coalitions, weights = draw_coalitions(4, 14, seed=0)
    assert sorted(map(tuple, coalitions.tolist())) == sorted(itertools.product((0, 1), repeat=4))[1:-1]
    # 3 / (4 * 1 * 3), 3 / (6 * 2 * 2) and 3 / (4 * 3 * 1)
    expected = {1: 0.25, 2: 0.125, 3: 0.25}
    assert weights.tolist() == pytest.approx([expected[int(row.sum())] for row in coalitions])
    drawn, alike = draw_coalitions(4, 13, seed=0)
    assert drawn.shape == (12, 4) and alike.tolist() == [1] * 12
    assert not torch.equal(draw_coalitions(20, 50, seed=1)[0], draw_coalitions(20, 50, seed=2)[0])
    for players in (0, 1):
        coalitions, weights = draw_coalitions(players, 14, seed=0)
        assert coalitions.shape == (0, players) and weights.shape == (0,)
    assert draw_coalitions(2, 14, seed=0)[0].tolist() == [[0, 1], [1, 0]]


def test_of_coalitions_only_the_proportion_of_their_weights_counts():
    coalitions, weights = draw_coalitions(6, 20, seed=0)
    scores = torch.randn(len(coalitions) + 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shapley(coalitions, weights, scores), shapley(coalitions, 2 * weights, scores))


def test_of_one_player_or_none_the_value_is_all_there_is():
    scores = torch.tensor([[1.0, 2.0], [4.0, 2.5]])
    for players in (0, 1):
        coalitions, weights = draw_coalitions(players, 10, seed=0)
        assert shapley(coalitions, weights, scores).tolist() == [[3.0, 0.5]] * players
