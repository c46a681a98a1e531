"""What is asked of pairs by columns and options reaches every verb, and what cannot be asked costs no other pair."""

import json

import numpy as np
import pytest

from m2ib_lightning import AttributionStore, explain, load_backbone
from m2ib_lightning.cli import main
from m2ib_lightning.data import make_scene
from m2ib_lightning.data.asked import ask_all, read_asked
from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.images import StoredImage
from m2ib_lightning.methods import Saliency
from m2ib_lightning.phrases import foil_modality
from m2ib_lightning.types import Asked, BadPair, Pair, PartTruth, Truth

QUICK = ["--model.steps", "2", "--model.noise_samples", "2", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    scene = make_scene(7, objects=("cat", "key"))
    scene.image.save(folder / "cat.png")
    rows = [
        {"id": "phrases", "image": "cat.png", "text": "a cat and a key", "phrases": ["key", [2, 5]]},
        {"id": "plain", "image": "cat.png", "text": "a cat"},
        {"id": "foil", "image": "cat.png", "text": "a cat", "against": "a key"},
        {"id": "wrong", "image": "cat.png", "text": "a cat", "phrases": "whale"},
    ]
    path = folder / "pairs.jsonl"
    every = {"phrases": "", "against": ""}
    path.write_text("\n".join(json.dumps(every | row) for row in rows))
    return path


@pytest.fixture(scope="module")
def predicted(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    main(["predict", "--data.source", str(table), "--output", str(out), *QUICK])
    return AttributionStore(out / "attributions")


def test_columns_say_the_phrases_of_each_pair(predicted):
    assert [(p.text, p.span) for p in predicted["phrases"].phrases] == [("key", (12, 15)), ("cat", (2, 5))]
    assert predicted["phrases"].phrases[0].verdict
    assert predicted["plain"].phrases == []


def test_a_column_says_what_a_pair_is_explained_against(predicted, table):
    picture = table.parent / "cat.png"
    (expected,) = explain(picture, "a cat", against="a key", steps=2, noise_samples=2)
    found = predicted["foil"]
    np.testing.assert_allclose(found.image_map, expected.image_map, atol=1e-4 * expected.image_map.max())
    assert found.settings["against"] == "a key" and "against" not in predicted["plain"].settings


def test_a_pair_comes_out_the_same_beside_one_with_a_foil(predicted, table):
    (expected,) = explain(table.parent / "cat.png", "a cat", steps=2, noise_samples=2)
    found = predicted["plain"]
    assert found.image_score == pytest.approx(expected.image_score, abs=1e-5)
    np.testing.assert_allclose(found.image_map, expected.image_map, atol=1e-4 * expected.image_map.max())


def test_a_phrase_that_is_not_there_costs_its_own_pair_alone(predicted):
    assert {bad.id for bad in predicted.errors()} == {"wrong"} and len(predicted) == 3


def test_fit_finds_the_words_that_carry_most(tmp_path):
    main(["fit", "--data.scenes", "1", "--phrases", "auto", "--output", str(tmp_path), "--pictures", "false",
          "--model.noise_samples", "2", "--trainer.enable_progress_bar", "false"])  # fmt: skip
    (found,) = AttributionStore(tmp_path / "attributions")
    strongest = max(found.words(), key=lambda word: word[1])[0]
    assert any(strongest in phrase.text for phrase in found.phrases)


def test_a_list_asks_each_pair_for_what_its_text_has():
    image = make_scene(0).image
    pairs = [
        Pair("a", image, "A crab and a tree"),
        Pair("b", image, "a crabapple"),
        Pair("c", image, "a crab", asked=Asked(phrases="auto")),
        BadPair("d", "", "", "no file"),
    ]
    asked = ask_all(pairs, ["crab", "tree"])
    assert [pair.asked.phrases for pair in asked[:3]] == [[(2, 6), (13, 17)], [], "auto"] and asked[3] is pairs[3]


@pytest.mark.parametrize("cell", ["red crab; tree", '["red crab", [17, 21]]', [[2, 10], "tree"]])
def test_a_cell_says_phrases_in_several_ways(cell):
    assert read_asked(Asked(cell), "a red crab and a tree").phrases == [(2, 10), (17, 21)]


@pytest.mark.parametrize("cell", [b"a file", {"bytes": b"a file", "path": None}])
def test_a_picture_in_a_cell_is_a_foil(cell):
    row = {"image": "a.png", "text": "a cat", "against": cell}
    found = Columns().found(list(row), "pairs.parquet").reference(row, "", "row 1").asked.against
    assert isinstance(found, StoredImage) and foil_modality(found) == "image"


@pytest.mark.parametrize(
    ("cell", "message"), [("[oops", "phrases"), ([[1, 2, 3]], r"\[start, end\]"), ("whale", "text")]
)
def test_a_cell_that_says_nothing_of_the_kind_is_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        read_asked(Asked(cell), "a crab")


def test_every_method_answers_what_is_asked():
    backbone, scene = load_backbone("embedded"), make_scene(60_001, kind="two_of_four")
    pair = Pair("a", scene.image, scene.text, asked=Asked([scene.spans[0]], regions=[scene.objects[0].box]))
    (found,) = Saliency(backbone).explain(backbone.preprocess_pairs([pair]))
    assert found.phrases[0].text == scene.objects[0].name and len(found.regions[0].text_map) == len(found.tokens)


def test_the_matrix_of_words_and_patches_has_a_row_for_each_word():
    scene = make_scene(7, objects=("cat", "key"))
    (a,) = explain(scene.image, "a cat and a banana", phrases="words", noise_samples=2)
    words, matrix = a.word_patch_matrix()
    assert words == ["a", "cat", "and", "a", "banana"] and matrix.shape == (5, 8, 8)
    # The cat is there, the banana is not.
    assert matrix[1].min() >= 0 and matrix[4].max() <= 0 and matrix[4].min() < 0
    row, column = np.unravel_index(matrix[1].argmax(), (8, 8))
    assert (scene.labels[12 * row : 12 * row + 12, 12 * column : 12 * column + 12] == 0).any()


def test_what_truth_knows_is_asked_for_with_the_regions_that_it_names():
    image, seen, unseen = make_scene(0).image, np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool)
    parts = [PartTruth(seen, (2, 6)), PartTruth(seen), PartTruth(unseen, (0, 1))]
    pair, other = Pair("a", image, "a crab", truth=Truth(parts=parts)), Pair("b", image, "a crab")
    against = other._replace(asked=Asked(against="a tree"))
    first, second, third = ask_all([pair, other, against], "truth")
    assert first.asked.phrases == [(2, 6)] and first.asked.regions[0] is seen and len(first.asked.regions) == 1
    assert second.asked == Asked([], None, []) and third.asked == Asked([], "a tree", [])


def test_words_or_nothing_are_asked_of_pairs_that_say_nothing_themselves():
    image = make_scene(0).image
    pairs = [Pair("a", image, "a crab"), Pair("b", image, "a", asked=Asked([])), BadPair("c", "", "", "gone")]
    assert ask_all(pairs) == pairs and ask_all(pairs) is not pairs
    for phrases in ("auto", "words"):
        found = ask_all(pairs, phrases)
        assert found[0].asked == Asked(phrases) and found[1:] == pairs[1:]
    assert ask_all(pairs, ["Crab", "a", "whale"])[0].asked == Asked([(2, 6), (0, 1)])


@pytest.mark.parametrize(
    ("phrases", "found"),
    [
        (None, None), ("", None), ("  ", None), ("[]", None), ([], None), (" auto ", "auto"), ("words", "words"),
        ("crab;; tree ;", [(2, 6), (11, 15)]), ('["crab"]', [(2, 6)]), ([[2, 6], "tree"], [(2, 6), (11, 15)]),
    ],
)  # fmt: skip
def test_a_cell_of_phrases_says_spans_or_a_keyword_or_nothing(phrases, found):
    assert read_asked(Asked(phrases), "a crab and tree") == Asked(found)


@pytest.mark.parametrize(("against", "found"), [("", None), (" \t", None), ("a dog ", "a dog "), (None, None), (3, 3)])
def test_an_empty_cell_is_no_foil(against, found):
    asked = read_asked(Asked(None, against, ["regions"]), "a crab")
    assert asked == Asked(None, found, ["regions"])


@pytest.mark.parametrize("cell", ["[oops", "[" * 100_000])
def test_a_list_of_phrases_that_is_no_json_is_named_with_the_remedy(cell):
    with pytest.raises(ValueError) as said:
        read_asked(Asked(cell), "a crab")
    assert str(said.value) == (
        f'Expected phrases but got {cell!r:.80}. Remedy: "auto", phrases split by semicolons, or a list as JSON.'
    )
