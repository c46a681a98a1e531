"""What metrics are given of a pair, against what is written out by hand."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning import load_backbone
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.evaluation import Evaluator, Protocol, sanity, true_tokens
from m2ib_lightning.evaluation.evidence import BatchEvidence, PairEvidence, blurred, spread, spread_cells, touched
from m2ib_lightning.evaluation.sanity import NONSENSE, Sanity, parts, randomise, randomise_from_top
from m2ib_lightning.methods import M2IB, GradCAM, RandomMap
from m2ib_lightning.metrics import NonsensePrompt, RandomisationSimilarity
from m2ib_lightning.parts import Phrase, Region
from m2ib_lightning.types import Pair, PartTruth, Truth
from tests.evaluation.scenes import scene_pairs


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def evidence(method, pairs, protocol) -> BatchEvidence:
    batch = method.prepare().preprocess_pairs(pairs)
    return BatchEvidence(Sanity(method), batch, method.attribute(batch), protocol)


@torch.no_grad()
def test_an_insertion_starts_from_the_blurred_picture(embedded):
    seen = evidence(RandomMap(embedded), scene_pairs(1), Protocol(steps=2))
    pixels = embedded.embed("image", seen.batch._replace(pixel_values=blurred(seen.batch.pixel_values)))
    expected = torch.cosine_similarity(pixels, embedded.embed("text", seen.batch))
    torch.testing.assert_close(seen.curve("image", "insertion")[:, 0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_fidelity_is_that_of_a_slow_loop_over_maskings(embedded):
    method, pairs, protocol = RandomMap(embedded), scene_pairs(2), Protocol(masks=3)
    seen = evidence(method, pairs, protocol)
    predicted, falls = seen.fidelity("image")
    rows, columns = embedded.image.grid(seen.batch)
    keep = torch.rand(3, 1, rows, columns, generator=torch.Generator().manual_seed(0)) < 0.5
    height, width = seen.batch.pixel_values.shape[2] // rows, seen.batch.pixel_values.shape[3] // columns
    text = embedded.embed("text", seen.batch)
    for k in range(3):
        pixels = seen.batch.pixel_values.clone()
        hidden = torch.zeros(2)
        for r in range(rows):
            for c in range(columns):
                if not keep[k, 0, r, c]:
                    pixels[:, :, r * height : (r + 1) * height, c * width : (c + 1) * width] = 0
                    hidden += torch.tensor([float(a.image_map[r, c]) for a in seen.attributions])
        torch.testing.assert_close(predicted[k], hidden)
        left = torch.cosine_similarity(embedded.embed("image", seen.batch._replace(pixel_values=pixels)), text)
        clean = torch.cosine_similarity(embedded.embed("image", seen.batch), text)
        torch.testing.assert_close(falls[k], clean - left, rtol=0, atol=1e-5)


def test_what_special_tokens_hold_makes_no_word_fainter(embedded):
    seen = evidence(RandomMap(embedded), scene_pairs(2), Protocol())
    expected = seen.masks("text")
    for a in seen.attributions:
        a.text_map[a.special] = 100
    torch.testing.assert_close(seen.masks("text"), expected)
    assert expected.amax(1).tolist() == [1, 1]


def test_the_nonsense_map_is_that_of_the_picture_beside_the_nonsense_text(embedded):
    method, (pair,) = GradCAM(embedded), scene_pairs(1)
    (seen,) = evidence(method, [pair], Protocol()).pairs()
    (other,) = method.attribute(embedded.preprocess_pairs([pair._replace(text=NONSENSE)]))
    np.testing.assert_allclose(seen.nonsense("image").numpy(), other.image_map.ravel(), rtol=1e-4, atol=1e-7)
    assert np.abs(other.image_map.ravel() - seen.values("image").numpy()).max() > 1e-4
    assert seen.nonsense("text") is None


def test_two_batches_of_one_evaluator_are_scored_as_by_two(embedded):
    pairs = scene_pairs(2)
    metrics = [RandomisationSimilarity(), NonsensePrompt()]
    one = Evaluator(GradCAM(embedded), metrics)
    together = [one.explain([pair])[1][0] for pair in pairs]
    apart = [Evaluator(GradCAM(embedded), metrics).explain([pair])[1][0] for pair in pairs]
    assert together == apart
    assert together[0]["image/NonsensePrompt"] != together[1]["image/NonsensePrompt"]


def test_noisy_pictures_go_to_both_sides_by_no_more_than_the_radius(embedded, monkeypatch):
    given = []
    monkeypatch.setattr(RandomMap, "attribute", lambda self, batch: given.append(batch.pixel_values))
    batch = embedded.preprocess_pairs(scene_pairs(2))
    Sanity(RandomMap(embedded), radius=0.5, samples=2).noisy(batch)
    noise = torch.stack(given) - batch.pixel_values
    torch.testing.assert_close(noise[:, 0], noise[:, 1])  # all pairs get the same
    assert noise.abs().max() <= 0.5 + 1e-5 and noise.mean().abs() < 0.02
    assert noise.max() > 0.45 and noise.min() < -0.45 and not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ((2, 5), [True, False, False, False]),  # "cat" in "catfish", read as "cat" and "fish": "fish" only touches it
        ((5, 9), [False, True, False, False]),
        ((10, 12), [False, False, True, False]),  # the full stop behind a named word is not named
    ],
)
def test_a_token_is_true_if_it_shares_a_character_and_not_if_it_touches(named, expected):
    text = "a catfish in."
    spans = [(2, 5), (5, 9), (10, 12), (12, 13)]
    a = Attribution("", text, None, None, ["cat", "fish", "in", "."], np.zeros(4, bool), spans, 0.0)
    assert true_tokens(a, [named]).tolist() == expected


def test_the_evaluator_keeps_the_order_of_the_pairs(embedded):
    pairs = [Pair(str(i), p.image, p.text) for i, p in enumerate(scene_pairs(3))]
    attributions, rows = Evaluator(RandomMap(embedded), []).explain(pairs)
    assert [a.id for a in attributions] == [row["id"] for row in rows] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_randomised_model_is_explained_in_inference_mode_as_outside_of_it(embedded):
    method = M2IB(embedded, steps=2, noise_samples=2, image_layer=1)
    batch = method.prepare().preprocess_pairs(scene_pairs(1))
    with torch.inference_mode():  # as a Trainer tests
        found = Sanity(method)
        (random,), down = found.randomised(batch), [maps[0] for maps in found.cascade(batch)]
    np.testing.assert_allclose(random.image_map, Sanity(method).randomised(batch)[0].image_map, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(down[-1].image_map, random.image_map, rtol=1e-4, atol=1e-3)


def result(values, view=(0.0, 0.0, 1.0, 1.0), **changed) -> Attribution:
    """A result with an image map alone."""
    values = np.array(values, np.float32)
    return Attribution("", "a cat", values, None, [], np.zeros(0, bool), [], 0.5, view=view, **changed)


def test_a_map_is_spread_to_the_pixel_over_a_view_in_the_middle_or_beyond_the_edges():
    values = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    inner = spread(result(values, (0.25, 0.5, 1.0, 1.0)), (4, 4))
    expected = torch.zeros(4, 4)
    expected[2:, 1:] = torch.tensor(values)
    torch.testing.assert_close(inner, expected)
    # Twice as large as the picture to each side but the lower one: of 3 x 2 pixels a patch the middle is left.
    wide = spread(result([[1.0, 2.0, 3.0, 4.0]], (-0.5, -1.0, 1.5, 1.0)), (2, 4))
    ends = torch.nn.functional.interpolate(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), (4, 8), mode="bilinear")[0, 0]
    torch.testing.assert_close(wide, ends[2:, 2:6])
    low = spread(result([[-2.0, 1.0]], (0.0, 0.0, 0.5, 1.0)), (1, 4))
    assert low.tolist() == [[-2, 1, -2, -2]]  # what was not seen is as low as the lowest
    assert spread(result([[7.0]], (0.5, 0.5, 0.5, 0.5)), (4, 4)).nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize("seed", range(6))
def test_cells_cover_the_pixels_whose_centres_they_hold(seed):
    rng = np.random.default_rng(seed)
    cells = rng.normal(3 * (seed % 2), 1, (3, 5)).astype(np.float32)
    left, top = rng.uniform(-0.3, 0.4, 2)
    right, bottom = left + rng.uniform(0.4, 0.9), top + rng.uniform(0.4, 0.9)
    expected = np.full((11, 13), min(0.0, cells.min()), np.float32)
    mask, touching = rng.random((11, 13)) > 0.9, np.zeros((3, 5), bool)
    for row in range(11):
        for column in range(13):
            across = ((column + 0.5) / 13 - left) / (right - left) * 5
            down = ((row + 0.5) / 11 - top) / (bottom - top) * 3
            if 0 <= across < 5 and 0 <= down < 3:
                expected[row, column] = cells[int(down), int(across)]
                touching[int(down), int(across)] |= mask[row, column]
    view = (left, top, right, bottom)
    np.testing.assert_array_equal(spread_cells(cells, view, (11, 13)).numpy(), expected)
    np.testing.assert_array_equal(touched(mask, view, (3, 5)).numpy(), touching)


def pair_evidence(a: Attribution, truth: Truth) -> PairEvidence:
    batch = SimpleNamespace(attributions=[a], truths=[truth], explained=lambda m: a.map_of(m) is not None)
    return PairEvidence(batch, 0)


def test_of_a_pair_without_a_truth_or_a_map_nothing_is_known():
    a = result([[1.0, 4.0]])
    seen = pair_evidence(a, Truth())
    assert seen.saliency("image") is seen.heatmap("image") is seen.truth("image") is seen.truth("text") is None
    assert seen.saliency("text") is seen.words("text") is seen.named("text") is seen.content("image") is None
    assert seen.phrase_maps("image") is seen.phrase_truths("image") is seen.phrase_patches("image") is None
    assert seen.phrase_touched("image") is seen.phrase_others("image") is None
    assert seen.region_maps("text") is seen.region_truths("text") is None
    assert seen.values("text") is None and seen.values("image").tolist() == [1, 4]
    for name in ("score", "masked_score", "insertion", "deletion", "randomised", "nonsense", "by_layer", "perturbed",
                 "predicted_falls", "falls"):  # fmt: skip
        assert getattr(seen, name)("text") is None, name
    blind = pair_evidence(replace(a, image_map=None), Truth(np.ones((2, 2), bool)))
    assert blind.saliency("image") is None and blind.truth("image").all()


def test_a_heat_map_is_between_0_and_1_at_the_size_of_its_truth():
    seen = pair_evidence(result([[-2.0, 1.0, 4.0]]), Truth(np.ones((1, 3), bool)))
    assert seen.saliency("image").tolist() == [[-2, 1, 4]] and seen.heatmap("image").tolist() == [[0, 0.25, 1]]
    assert seen.heatmap("text") is None
    faint = pair_evidence(result([[0.0, 0.1, 0.2]]), Truth(np.ones((1, 3), bool)))
    torch.testing.assert_close(faint.heatmap("image"), torch.tensor([[0, 0.5, 1]]))
    assert pair_evidence(result([[0.0, -1.0]]), Truth(np.ones((1, 2), bool))).heatmap("image").tolist() == [[0, 0]]


def named_words(**changed) -> Attribution:
    """A result whose text is "a cat, a key" with tokens for each word, and a special one behind."""
    fields = {
        "text_map": np.array([1, 2, 4, 1, 3, 9], np.float32), "tokens": ["a", "c", "at", "a", "key", "</s>"],
        "spans": [(0, 1), (2, 3), (3, 5), (7, 8), (9, 12), (0, 0)], "special": np.array([0, 0, 0, 0, 0, 1], bool),
        "text": "a cat, a key",
    }  # fmt: skip
    return replace(result([[1.0, 0.0], [0.0, 2.0]]), **fields | changed)


def test_words_are_named_where_they_share_a_character():
    seen = pair_evidence(named_words(), Truth(None, [(2, 5)]))
    assert seen.words("text").tolist() == [1, 3, 1, 3] and seen.named("text").tolist() == [False, True, False, False]
    assert seen.content("text").tolist() == [True] * 5 + [False] and seen.saliency("text").tolist() == [
        1,
        2,
        4,
        1,
        3,
        9,
    ]
    assert seen.truth("text").tolist() == [False, True, True, False, False, False]
    assert seen.words("image") is seen.named("image") is None
    without = pair_evidence(named_words(text_map=None), Truth(None, [(2, 5)]))
    assert without.words("text") is without.named("text") is None


def masked(*pixels: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((4, 4), bool)
    for place in pixels:
        mask[place] = True
    return mask


def phrase(start: int, end: int, values) -> Phrase:
    return Phrase("", (start, end), 0.5, np.array(values, np.float32))


def test_phrases_and_regions_are_held_against_what_they_name():
    cat, key, like, gone = masked((0, 0), (0, 1)), masked((3, 3)), masked((3, 0)), masked()
    parts = [PartTruth(cat, (2, 5)), PartTruth(key, (9, 12)), PartTruth(like), PartTruth(gone, (0, 1))]
    phrases = [
        phrase(0, 5, [[1, 2], [3, 4]]),  # "a cat" names the article's part as well
        phrase(2, 5, [[5, 6], [7, 8]]),
        phrase(0, 1, [[0, 0], [0, 1]]),  # nothing of it is shown
        phrase(9, 12, [[1, 0], [0, 9]]),
        phrase(5, 6, [[1, 1], [1, 1]]),  # names nothing
    ]
    boxes = [(0, 0, 0.5, 0.25), (0.75, 0.75, 1, 1), (0, 0.75, 0.25, 1), (0, 0, 1, 1)]
    regions = [Region(box, 0.5, np.arange(6, dtype=np.float32) + i) for i, box in enumerate(boxes)]
    seen = pair_evidence(named_words(phrases=phrases, regions=regions), Truth(cat | key, [(2, 5)], parts))
    assert seen.phrase_patches("image").tolist() == [[[5, 6], [7, 8]], [[1, 0], [0, 9]]]
    assert seen.phrase_maps("image")[1].tolist() == np.kron([[1, 0], [0, 9]], np.ones((2, 2))).tolist()
    np.testing.assert_array_equal(seen.phrase_truths("image").numpy(), np.stack([cat, key]))
    np.testing.assert_array_equal(seen.phrase_others("image").numpy(), np.stack([key | like, cat | like]))
    assert seen.phrase_touched("image").tolist() == [[[True, False], [False, False]], [[False, False], [False, True]]]
    # Of the regions, those around a thing that the text names.
    assert seen.region_maps("text")[:, 0].tolist() == [0, 1]
    assert seen.region_truths("text").tolist() == [[False, True, True, *[False] * 3], [*[False] * 4, True, False]]


@torch.no_grad()
def test_maps_are_brought_to_the_input_and_to_the_highest_value(embedded):
    seen = evidence(RandomMap(embedded), scene_pairs(2), Protocol(steps=4))
    first, second = seen.attributions
    first.image_map[:] = np.linspace(-0.5, 0.5, 64).reshape(8, 8)
    masks, maps = seen.masks("image"), seen.maps("image")
    for a, found, raw in zip(seen.attributions, masks, maps, strict=True):
        whole = torch.nn.functional.interpolate(torch.from_numpy(a.image_map)[None, None], (96, 96), mode="bilinear")
        torch.testing.assert_close(raw, whole[0, 0])
        torch.testing.assert_close(found, whole[0, 0].clamp(min=0) / whole.max())
    words = seen.maps("text")
    for a, row in zip(seen.attributions, words, strict=True):
        expected = np.where(a.special, 0, a.text_map)
        np.testing.assert_allclose(row[: len(expected)].numpy(), expected)
        assert not row[len(expected) :].any()
    assert seen.explained("image") and len(seen.pairs()) == 2 and seen.pairs()[1].attribution is second
    # Kept when it has been computed.
    assert seen.scores("image") is seen.scores("image") and seen.fidelity("text") is seen.fidelity("text")
    assert seen.curve("text", "deletion") is seen.curve("text", "deletion")
    clean, masked_one = seen.scores("text")
    pair = seen.pairs()[1]
    assert (pair.score("text"), pair.masked_score("text")) == (clean[1], masked_one[1])
    predicted, falls = seen.fidelity("text")
    assert torch.equal(pair.predicted_falls("text"), predicted[:, 1]) and torch.equal(pair.falls("text"), falls[:, 1])
    assert predicted.shape == (32, 2) and 0.2 < float((predicted > words.sum(1) / 2).float().mean()) < 0.8
    # A deletion goes the other way: all is there first, and nothing but special tokens last.
    insertion, deletion = pair.insertion("text"), pair.deletion("text")
    assert insertion.shape == deletion.shape == (5,)
    torch.testing.assert_close(insertion[-1], clean[1])
    torch.testing.assert_close(torch.stack([deletion[0], deletion[-1]]), torch.stack([clean[1], insertion[0]]))


def test_the_parts_of_a_cascade_are_randomised_one_after_the_other(embedded, monkeypatch):
    asked = []
    monkeypatch.setattr(sanity, "randomise_from_top", lambda backbone, count, seed: asked.append((count, seed)))
    monkeypatch.setattr(RandomMap, "attribute", lambda self, batch: [len(asked)])
    found = Sanity(RandomMap(embedded), seed=4).cascade(embedded.preprocess_pairs(scene_pairs(1)))
    assert asked == [(count, 4) for count in range(1, 11)] and len(parts(embedded)) == 10
    assert found == [[count] for count in range(1, 11)]


def test_what_is_changed_a_little_follows_from_a_seed_and_the_numbers_that_are_documented(embedded, monkeypatch):
    default = Sanity(RandomMap(embedded))
    assert (default.radius, default.samples, default.seed) == (0.02, 3, 0)
    given = []
    monkeypatch.setattr(RandomMap, "attribute", lambda self, batch: given.append(batch.pixel_values))
    batch = embedded.preprocess_pairs(scene_pairs(1))
    default.noisy(batch), Sanity(RandomMap(embedded), seed=1).noisy(batch)
    uniform = torch.rand(3, 1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    for found, share in zip(given[:3], uniform, strict=True):
        torch.testing.assert_close(found, batch.pixel_values + (0.04 * share - 0.02))
    assert len(given) == 6 and not torch.equal(given[0], given[3])
    first, again, other = (copy.deepcopy(embedded) for _ in range(3))
    randomise(first), randomise(again, 0), randomise(other, 1)
    assert first.weight_hash == again.weight_hash != other.weight_hash
    whole, by_parts = copy.deepcopy(embedded), copy.deepcopy(embedded)
    randomise_from_top(whole, 10), randomise_from_top(by_parts, 10, 0)
    assert whole.weight_hash == by_parts.weight_hash == first.weight_hash
