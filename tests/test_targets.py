import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from m2ib_lightning import AttributionStore, explain, load_backbone
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import Scene, make_scene
from m2ib_lightning.data.images import StoredImage
from m2ib_lightning.data.scene_kinds import COLOURS
from m2ib_lightning.methods import M2IB, Occlusion, Saliency
from m2ib_lightning.methods.priors import find_priors
from m2ib_lightning.phrases import (
    aimed,
    around,
    explain_phrases,
    find_spans,
    foils_of_each,
    phrases_of_each,
    strongest_phrases,
)
from m2ib_lightning.store.parts import Provenance
from m2ib_lightning.targets import (
    CONTESTED,
    OWN_WORDS,
    SHOWN,
    Against,
    AgainstAlike,
    Contest,
    OtherModality,
    WithoutPhrase,
    WithoutRegion,
    box_region,
    cells_of,
    differing,
    effects,
    nearest_tokens,
    runs,
    words_in,
)
from m2ib_lightning.types import Asked, Pair, PairBatch
from tests.made import attribution


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(60_000 + i, kind="two_of_four") for i in range(3)]


@pytest.fixture(scope="module")
def batch(embedded, scenes) -> PairBatch:
    return embedded.preprocess_pairs([Pair(str(i), s.image, s.text) for i, s in enumerate(scenes)])


@pytest.fixture(scope="module")
def quick(embedded) -> M2IB:
    return M2IB(embedded, steps=3, noise_samples=2)


def assert_close_maps(found: Attribution, expected: Attribution) -> None:
    for name in ("image_map", "text_map"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("kind", [M2IB, Saliency])
def test_the_other_modality_as_target_is_what_is_explained_without_one(embedded, batch, kind):
    method = kind(embedded, steps=2, noise_samples=2) if kind is M2IB else kind(embedded)
    for found, expected in zip(
        method.attribute(OtherModality().aim(embedded, batch)), method.attribute(batch), strict=True
    ):
        assert_close_maps(found, expected)


def library_text(backbone: Backbone, text: str) -> torch.Tensor:
    """The unit embedding (E,) by the library's own full forward."""
    found = backbone.preprocess([make_scene(0).image], [text])
    with torch.no_grad():
        given = {"input_ids": found.input_ids, "attention_mask": found.attention_mask}
        state = backbone.model.text_model(**given).pooler_output
        return normalize(backbone.model.text_projection(state)[0], dim=0)


def test_the_target_of_a_deleted_phrase_is_the_difference_of_two_captions(embedded, batch, scenes):
    spans = [scene.spans[0] for scene in scenes]
    found = WithoutPhrase(spans, out="deleted").directions(embedded, batch)
    assert list(found) == ["image"]
    start, end = spans[1]
    text = scenes[1].text
    before = text[:start].removesuffix("a ").removesuffix("an ").removesuffix("the ")
    without = " ".join((before + text[end:]).split())
    expected = library_text(embedded, text) - library_text(embedded, without)
    torch.testing.assert_close(found["image"][1], expected, atol=1e-5, rtol=1e-4)


def test_an_effect_is_the_clean_similarity_minus_that_with_the_foil(embedded, batch):
    foil = "a photo of a whale"
    # It is along the difference that the text, whose part it is, is explained.
    found = effects(embedded, batch, {"image": Against([foil]).directions(embedded, batch)["text"]})
    image = normalize(embedded.embed("image", batch), dim=-1)
    expected = [
        picture @ library_text(embedded, pair.text) - picture @ library_text(embedded, foil)
        for picture, pair in zip(image, batch.pairs, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("foils", [["a key", Image.new("RGB", (9, 9), "red")], ["a key"], ["a key", "a cat", "a dog"]])
def test_foils_that_are_not_one_for_each_pair_or_of_two_kinds_are_refused(foils):
    with pytest.raises(ValueError, match=r"one for each of 2, all captions or all pictures.*Remedy"):
        foils_of_each(foils, 2)


def test_each_pair_of_a_batch_is_aimed_against_its_own_foil_or_else_its_own_other_half(embedded, batch, scenes):
    written = io.BytesIO()
    scenes[0].image.save(written, "PNG")
    foils = [None, "a photo of a whale", StoredImage("cell", written.getvalue())]
    targets = [OtherModality(), Against([foils[1]]), Against([scenes[0].image], "image")]
    pairs = tuple(p._replace(asked=Asked(against=foil)) for p, foil in zip(batch.pairs, foils, strict=True))
    found = aimed(embedded, batch._replace(pairs=pairs))
    for row, target in enumerate(targets):
        expected = target.directions(embedded, batch.keep([row]))
        wanted = {"image": 1, "text": OWN_WORDS if row == 1 else 1}
        for at in (found.keep([row]), found.keep([2, row]).keep([1])):
            assert {m: weight.item() for m, weight in at.weights.items()} == pytest.approx(wanted)
        opposed = target.aim(embedded, batch.keep([row])).opposed
        assert [m for m, direction in opposed.items() if direction.any()] == [[], ["image"], ["text"]][row]
        for modality in ("image", "text"):
            for at in (found.keep([row]), found.keep([2, row]).keep([1])):
                torch.testing.assert_close(at.targets[modality], expected[modality], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(at.opposed[modality], opposed[modality], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.opposed["text"][2], -found.targets["text"][2])  # words for the other picture


def library_text_at_mean(backbone: Backbone, text: str, words: list[str]) -> torch.Tensor:
    """The unit embedding (E,) by the library's own full forward, the tokens of some words at their mean over data."""
    (spans,) = backbone.preprocess([make_scene(0).image], [text]).spans
    places = [i for i, (start, end) in enumerate(spans) if text[start:end] in words]
    mean = find_priors(backbone, "measured", {"text": "embeddings"})["text"].mean

    def put_mean(module, given, states):
        states = states.clone()
        states[:, places] = mean
        return states

    with (handle := backbone.model.text_model.embeddings.register_forward_hook(put_mean)):
        found = library_text(backbone, text)
        assert handle is not None and len(places) == len(words)
    return found


def test_what_two_captions_share_is_neither_for_the_one_nor_for_the_other(embedded, scenes):
    texts, foil = ["a red crab left of a tree", "a red crab"], "a green crab left of a tree"
    batch = embedded.preprocess_pairs([Pair(text, scenes[0].image, text) for text in texts])
    found, other = Against([foil]).aim(embedded, batch), library_text(embedded, foil)
    for row, text in enumerate(texts):  # "red" differs, "crab" beside it tells nearly as much, "left" does not
        own, common = library_text(embedded, text), library_text_at_mean(embedded, text, ["red", "crab"])
        image, opposed = (own - common) - (other - common) / 2, (other - common) - (own - common) / 2
        torch.testing.assert_close(found.targets["image"][row], image, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.opposed["image"][row], opposed, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.targets["text"][row], own - other, atol=1e-5, rtol=1e-4)
        assert not found.opposed["text"].any()


def test_of_a_foil_that_only_says_more_the_target_is_the_difference(embedded, scenes):
    batch = embedded.preprocess_pairs([Pair("a", scenes[0].image, "a crab")])
    found = Against(["a crab and a tree"]).aim(embedded, batch)
    difference = library_text(embedded, "a crab") - library_text(embedded, "a crab and a tree")
    torch.testing.assert_close(found.targets["image"][0], difference / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "foil", "differ"),
    [
        ("a red crab", "A Red crab", []),
        ("a red crab", "a red crab and a tree", []),
        ("a red crab left of a tree", "a red key left of a cat", ["crab", "tree"]),
        ("a cat, here", "nothing", ["a", "cat", "here"]),
        ("a cat", "?", ["a", "cat"]),
    ],
)
def test_words_differ_that_a_foil_has_not_in_their_place(text, foil, differ):
    words = [text[start:end] for start, end in words_in(text)]
    assert [word for word, differs in zip(words, differing(text, foil), strict=True) if differs] == differ


@pytest.mark.parametrize(("text", "foil"), [("!!!", "a cat"), ("a cat", "!!!")])
def test_a_caption_without_a_word_is_told_from_another_as_a_whole(embedded, scenes, text, foil):
    batch = embedded.preprocess_pairs([Pair("a", scenes[0].image, text)])
    found = Against([foil]).aim(embedded, batch)
    own, other = library_text(embedded, text), library_text(embedded, foil)
    common = WithoutPhrase([(0, len(text))]).without(embedded, batch)[0]
    torch.testing.assert_close(found.targets["image"][0], own - common - (other - common) / 2, atol=1e-5, rtol=1e-4)


def test_words_are_taken_along_that_tell_as_much_and_follow_one_another():
    words, tells = [(i, i + 1) for i in range(6)], torch.tensor([0.5, 0.4, 1.0, 0.49, 0.9, 0.6])
    # The third differs; the fifth and sixth tell as much, but the fourth parts them.
    assert runs(words, [False, False, True, False, False, False], tells) == [(2, 3)]
    # The fourth differs too, so all from the third on follow one another.
    assert runs(words, [False, False, True, True, False, False], tells) == [(2, 3), (3, 4), (4, 5), (5, 6)]
    assert runs(words, [False] * 6, tells) == []


def on(values: np.ndarray, scene: Scene, index: int) -> float:
    """The share of a map on an object."""
    side = len(scene.labels) // len(values)
    return float(np.kron(values, np.ones((side, side)))[scene.labels == index].sum() / values.sum()) / side**2


@pytest.mark.slow
@pytest.mark.parametrize("as_phrase", [True, False])
def test_a_colour_is_told_from_another_and_from_what_else_is_named(embedded, as_phrase):
    seen = []
    for seed in range(216_100, 216_104):
        scene = make_scene(seed, kind="attribute")
        (colour, name), (other, _), (third, _) = [(i.colour or i.name, i.name) for i in scene.objects[:3]]
        text, foil = (f"a {word} {name} and a {third}" for word in (colour, other))
        asked = {"phrases": [f"{colour} {name}"]} if as_phrase else {"against": foil}
        (a,) = explain(scene.image, text, modalities=["image"], **asked)
        values = a.phrases[0].image_map if as_phrase else a.image_map
        assert not as_phrase or a.phrases[0].verdict == "ok"
        seen.append([on(values, scene, index) for index in range(3)])
    own, twin, third = np.mean(seen, axis=0)
    assert own > 0.6 and twin < 0.05 and third < 0.05


def test_texts_that_are_alike_without_their_phrases_stay_with_their_pairs(embedded, scenes):
    texts = ["a cat and a key", "a cat and a dog", "a key"]
    batch = embedded.preprocess_pairs([Pair(t, scenes[0].image, t) for t in texts])
    found = WithoutPhrase([(12, 15), (12, 15), (0, 1)], "deleted").without(embedded, batch)
    for row, left in enumerate(["a cat and", "a cat and", "key"]):
        torch.testing.assert_close(normalize(found[row], dim=0), library_text(embedded, left), atol=1e-5, rtol=1e-4)


def test_the_word_that_stands_for_a_phrase_is_that_which_its_own_picture_contests_most(embedded, batch, scenes):
    together = AgainstAlike([(0, len(scene.text)) for scene in scenes]).contest(embedded, batch)
    for row, scene in enumerate(scenes):
        own, words = batch.keep([row]), [word.span() for word in re.finditer(r"\w+", scene.text)]
        picture = normalize(embedded.embed("image", own)[0], dim=0)
        each = [differences_to_what_is_alike(embedded, scene.text, word, own) for word in words]
        lengths = torch.stack([differences.mean(0).norm() for differences in each])
        falls = torch.stack([(differences @ picture).min() for differences in each])
        telling = lengths >= lengths.max() / 2
        assert not telling.all() and not telling[falls.argmin()]
        chosen = each[int(torch.where(telling, falls, torch.inf).argmin())]
        cosines = torch.cosine_similarity(chosen, picture[None], dim=1)
        assert together.contested[row] == bool((cosines < CONTESTED).any())
        full, without = (
            library_text(embedded, scene.text),
            WithoutPhrase([(0, len(scene.text))]).without(embedded, own)[0],
        )
        rival = full - chosen[(chosen @ picture).argmin()]
        own_part, rivals_part = full - without, rival - without
        expected = own_part - rivals_part / 2 if together.contested[row] else chosen.mean(0)
        opposed = rivals_part - own_part / 2 if together.contested[row] else torch.zeros(len(full))
        torch.testing.assert_close(together.target[row], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.opposed[row], opposed, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.effect[row], chosen.mean(0) @ picture, atol=1e-5, rtol=1e-4)
        shown = torch.cosine_similarity(chosen.mean(0), picture, dim=0)
        torch.testing.assert_close(together.shown[row], shown, atol=1e-5, rtol=1e-4)


def test_each_word_is_contested_by_its_cosine_with_what_is_alike(embedded, batch, scenes):
    seen = []
    for row, scene in enumerate(scenes):
        own, words = batch.keep([row]), [word.span() for word in re.finditer(r"\w+", scene.text)]
        found = AgainstAlike(words).contest(embedded, batch.keep([row] * len(words))).contested.tolist()
        picture = embedded.embed("image", own)
        each = [differences_to_what_is_alike(embedded, scene.text, word, own) for word in words]
        assert found == [bool((torch.cosine_similarity(e, picture, dim=1) < CONTESTED).any()) for e in each]
        seen += found
    assert len(set(seen)) == 2


def differences_to_what_is_alike(backbone: Backbone, text: str, word: tuple[int, int], own: PairBatch) -> torch.Tensor:
    """(K, E), the text less each of those that have another token for a word; of a word of several, one without it."""
    tokens = [t for t, (start, end) in enumerate(own.spans[0]) if start < word[1] and end > word[0]]
    full = library_text(backbone, text)
    if len(tokens) > 1:
        return WithoutPhrase([word]).directions(backbone, own)["image"]
    rows = []
    for other in nearest_tokens(backbone, own, own.input_ids[:, tokens[0]], 3)[0]:
        ids = own.input_ids.clone()
        ids[0, tokens[0]] = other
        rows.append(full - normalize(backbone.embed("text", own._replace(input_ids=ids))[0], dim=0))
    return torch.stack(rows)


def test_tokens_are_alike_by_their_directions_from_the_mean_of_all(embedded, batch):
    table = embedded.model.text_model.embeddings.token_embedding.weight.detach().double().numpy()
    around = table - table.mean(0)
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    ids = batch.input_ids[0, 1 : len(batch.tokens[0]) - 1]
    special = {int(batch.input_ids[0, 0]), int(batch.input_ids[0, len(ids) + 1])}
    for token, found in zip(ids.tolist(), nearest_tokens(embedded, batch.keep([0]), ids, 3), strict=True):
        ranked = [int(i) for i in np.argsort(-(around @ around[token])) if int(i) not in special | {token}]
        assert found.tolist() == ranked[:3]


def test_a_phrase_that_speaks_against_is_looked_for_where_it_lowers_the_similarity(embedded):
    text = "a cat and a banana"
    batch = embedded.preprocess_pairs([Pair("a", make_scene(7, objects=("cat", "key")).image, text)])
    spans = find_spans(text, ["banana"])
    ((phrase,),) = explain_phrases(Occlusion(embedded), batch, [spans])
    direction = WithoutPhrase(spans).directions(embedded, batch)["image"]
    (expected,) = Occlusion(embedded).attribute(batch._replace(targets={"image": -direction}))
    assert phrase.against
    np.testing.assert_allclose(phrase.image_map, expected.image_map, atol=1e-5)


def test_phrases_count_as_what_they_are_explained_against(embedded):
    seen = []

    class Watched(Occlusion):
        def attribute(self, batch):
            seen.append(batch.weights["image"].tolist())
            return super().attribute(batch)

    text = "a cat and a banana"
    batch = embedded.preprocess_pairs([Pair("a", make_scene(7, objects=("cat", "key")).image, text)])
    explain_phrases(Watched(embedded), batch, [find_spans(text, ["banana", "cat"])])
    assert seen == [[WithoutPhrase.weight, AgainstAlike.weight]]


@pytest.mark.parametrize(("left", "verdict"), [(0.5, "ok"), (0.05, "similarity_lost")])
def test_the_verdict_on_a_phrase_compares_what_is_left_at_the_end_with_the_effect_of_the_phrase(
    embedded, batch, scenes, left, verdict
):
    class Leaving(M2IB):
        def attribute(self, batch):
            (clean,) = effects(self.prepare(), batch, batch.targets).tolist()
            kept = {"image/relevance": np.array([0.5 - left, left]) * clean}
            return [replace(a, history=kept, score=9.0) for a in super().attribute(batch)]

    method = Leaving(embedded, steps=3, noise_samples=2)
    ((phrase,),) = explain_phrases(method, batch.keep([0]), [[scenes[0].spans[0]]])
    assert phrase.verdict == verdict


def test_a_phrase_is_explained_the_same_alone_as_beside_others(embedded, quick, batch, scenes):
    spans = [list(scene.spans) for scene in scenes]
    together = explain_phrases(quick, batch, spans)
    alone = explain_phrases(quick, batch.keep([2]), [[spans[2][1]]])[0][0]
    assert alone.span == together[2][1].span
    largest = np.abs(alone.image_map).max()
    np.testing.assert_allclose(together[2][1].image_map, alone.image_map, atol=1e-4 * largest)
    assert together[2][1].effect == pytest.approx(alone.effect, abs=1e-5)


def test_phrases_of_a_picture_share_what_comes_before_the_bottleneck(embedded, quick, batch, monkeypatch):
    rows = batch.keep([0, 0, 1, 0])
    quick.prepare()  # measures the priors
    seen = []
    prefix = embedded.image.prefix
    monkeypatch.setattr(embedded.image, "prefix", lambda b, layer: seen.append(len(b.pixel_values)) or prefix(b, layer))
    fit = quick.new_fit(rows)
    assert seen == [2]
    torch.testing.assert_close(fit.hidden["image"].states[3], fit.hidden["image"].states[0])
    assert len(fit.clean["image"]) == 4


def test_relevance_that_counts_for_more_is_compression_that_costs_less(embedded, batch, scenes):
    aimed = AgainstAlike([scene.spans[0] for scene in scenes]).aim(embedded, batch)
    arguments = {"modalities": ["image"], "steps": 4, "noise_samples": 2}
    found = M2IB(embedded, image_beta=3 * AgainstAlike.weight, **arguments).attribute(aimed)
    expected = M2IB(embedded, image_beta=3, **arguments).attribute(aimed._replace(weights=None))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.image_map, b.image_map, rtol=1e-4)


def test_a_difference_explains_only_the_tower_that_it_is_a_target_of(embedded, quick, batch, scenes):
    aimed = WithoutPhrase([scene.spans[0] for scene in scenes]).aim(embedded, batch)
    for method in (quick, Saliency(embedded)):
        assert all(a.text_map is None and a.image_map is not None for a in method.attribute(aimed))
    # What comes through is no similarity then: it would be compared with the pair's and called lost.
    assert all(np.isnan(a.image_score) for a in quick.attribute(aimed))


def test_occlusion_against_the_opposite_direction_is_its_negative(embedded, batch, scenes):
    aimed = WithoutPhrase([scene.spans[0] for scene in scenes]).aim(embedded, batch)
    assert aimed.targets is not None
    opposite = aimed._replace(targets={"image": -aimed.targets["image"]})
    method = Occlusion(embedded)
    for a, b in zip(method.attribute(aimed), method.attribute(opposite), strict=True):
        assert a.image_map is not None and b.image_map is not None
        np.testing.assert_allclose(a.image_map, -b.image_map, atol=1e-5)
        assert a.score == b.score  # the pair's similarity is not what it is explained against


@pytest.mark.parametrize("out", ["deleted", "mean"])
def test_a_word_that_is_not_there_has_a_negative_effect(embedded, out):
    scene = make_scene(7, objects=("cat", "key"))
    text = "a cat and a banana"
    batch = embedded.preprocess_pairs([Pair(str(i), scene.image, text) for i in range(2)])
    target = WithoutPhrase(find_spans(text, ["cat", "banana"]), out)
    there, absent = effects(embedded, batch, target.directions(embedded, batch)).tolist()
    assert there > 0.05 and absent < -0.05


def test_explain_finds_phrases_and_words_of_regions():
    scene = make_scene(60_001, kind="two_of_four")
    boxes = [item.box for item in scene.objects[:2]]
    (a,) = explain(scene.image, scene.text, phrases=[item.name for item in scene.objects[:2]], regions=boxes)
    for index, (phrase, region) in enumerate(zip(a.phrases, a.regions, strict=True)):
        assert phrase.text == scene.objects[index].name and phrase.effect > 0 and not phrase.against
        cells = cells_of(scene.labels == index, a.view, phrase.image_map.shape)
        other = cells_of(scene.labels == 1 - index, a.view, phrase.image_map.shape)
        assert phrase.image_map[cells].sum() > 5 * phrase.image_map[other].sum()
        assert max(a.words(region.text_map), key=lambda word: word[1])[0] == scene.objects[index].name


def test_the_strongest_phrases_are_runs_of_words_above_the_mean():
    a = attribution(
        text="a red crab here", text_map=np.array([1, 5, 6, 2], dtype=np.float32), tokens=["a", "red", "crab", "here"],
        special=np.zeros(4, dtype=bool), spans=[(0, 1), (2, 5), (6, 10), (11, 15)],
    )  # fmt: skip
    # Their mean is 3.5.
    assert strongest_phrases(a) == [(2, 10)]


def test_of_a_text_of_one_word_that_word_is_the_strongest_phrase():
    a = attribution(
        text="cat", text_map=np.ones(1, dtype=np.float32), tokens=["cat"], special=np.zeros(1, dtype=bool),
        spans=[(0, 3)],
    )  # fmt: skip
    assert strongest_phrases(a) == [(0, 3)]


def test_regions_are_looked_for_in_what_the_model_saw():
    region = box_region((50, 0, 100, 100), (100, 100))
    # The model saw the right half: all of it is the region.
    assert cells_of(region, (0.5, 0.0, 1.0, 1.0), (2, 2)).all()
    np.testing.assert_array_equal(cells_of(region, (0.0, 0.0, 1.0, 1.0), (2, 2)), [[False, True], [False, True]])
    # A tenth of the left cell is no reason to take it out.
    wider = box_region((45, 0, 100, 100), (100, 100))
    np.testing.assert_array_equal(cells_of(wider, (0.0, 0.0, 1.0, 1.0), (1, 2)), [[False, True]])
    assert around(box_region((10, 20, 30, 50), (100, 200))) == (0.1, 0.1, 0.3, 0.25)


@pytest.mark.parametrize("out", ["blurred", "mean"])
def test_a_picture_without_its_named_object_is_less_similar(embedded, batch, scenes, out):
    regions = [scene.labels == 0 for scene in scenes]
    found = WithoutRegion(regions, out).directions(embedded, batch)
    assert list(found) == ["text"] and (effects(embedded, batch, found) > 0).all()


def test_parts_survive_a_file_and_a_store(tmp_path):
    scene = make_scene(60_002, kind="two_of_four")
    names = [scene.objects[0].name]
    (a,) = explain(scene.image, scene.text, phrases=names, regions=[(0, 0, 40, 40)], steps=1, noise_samples=2)
    a.save(tmp_path / "a.npz")
    AttributionStore(tmp_path / "store").append([a], Provenance("m", "w", {}))
    for back in (Attribution.load(tmp_path / "a.npz"), AttributionStore(tmp_path / "store")[a.id]):
        (phrase,), (region,) = back.phrases, back.regions
        assert (phrase.text, phrase.span) == (a.phrases[0].text, a.phrases[0].span)
        assert phrase.effect == pytest.approx(a.phrases[0].effect, rel=1e-6)
        np.testing.assert_array_equal(phrase.image_map, a.phrases[0].image_map)
        assert region.box == a.regions[0].box
        np.testing.assert_array_equal(region.text_map, a.regions[0].text_map)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"phrases": ["whale"]}, "phrase of the text"),
        ({"phrases": [(0, 99)]}, "characters of words"),
        ({"phrases": [["cat"], ["cat"]]}, "2 lists"),
        ({"against": " "}, "empty text"),
        ({"against": ["a dog", "a key"]}, "a foil for all pairs"),
        ({"regions": [(200, 200, 300, 300)]}, "a box"),
        ({"regions": [np.ones((3, 3), dtype=bool)]}, "a mask of shape"),
        ({"phrases": ["cat"], "modalities": ["text"]}, "explains the image"),
    ],
)
def test_what_cannot_be_asked_is_said(asked, message):
    scene = make_scene(7, objects=("cat", "key"))
    with pytest.raises(ValueError, match=message):
        explain(scene.image, "a cat", **asked, **({} if "modalities" in asked else {"steps": 1}))


def test_phrases_are_of_all_pairs_or_of_each():
    texts = ["a cat and a key", "a key"]
    assert phrases_of_each(["key"], texts) == [["key"], ["key"]]
    assert phrases_of_each([["cat"], "auto"], texts) == [["cat"], "auto"]
    assert phrases_of_each("auto", texts) == ["auto", "auto"]


def test_what_could_stand_in_place_of_a_colour_are_the_other_colours(embedded):
    scene = make_scene(60_003, kind="attribute")
    text = f"a {scene.objects[0].colour} {scene.objects[0].name}"
    batch = embedded.preprocess_pairs([Pair("a", scene.image, text)])
    token = batch.spans[0].index((2, 2 + len(scene.objects[0].colour)))
    alike = nearest_tokens(embedded, batch, batch.input_ids[:, token], 3)
    others = {colour for colour in COLOURS if colour != scene.objects[0].colour}
    expected = torch.cat([embedded.preprocess([scene.image], [f"a {c}"]).input_ids[:, -2] for c in sorted(others)])
    assert set(alike[0].tolist()) == set(expected.tolist())


def test_a_phrase_that_is_contested_is_explained_against_what_is_there_in_its_place(embedded):
    # A crab is there in two colours: what tells the named one from the other is its colour, not that it is a crab.
    scene = make_scene(60_003, kind="attribute")
    colour, name = scene.objects[0].colour, scene.objects[0].name
    text = f"a {colour} {name}"
    batch = embedded.preprocess_pairs([Pair("a", scene.image, text)])
    found = AgainstAlike([(2, len(text))]).aim(embedded, batch)
    foil = Against([f"a {scene.objects[1].colour} {name}"]).aim(embedded, batch)
    torch.testing.assert_close(found.targets["image"], foil.targets["image"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.opposed["image"], foil.opposed["image"], atol=1e-5, rtol=1e-4)
    assert found.opposed["image"].any() and found.weights["image"].tolist() == foil.weights["image"].tolist()
    alone = AgainstAlike([(2 + len(colour) + 1, len(text))]).aim(embedded, batch)
    assert torch.cosine_similarity(alone.targets["image"], found.targets["image"]) < 0.5
    assert not alone.opposed["image"].any() and alone.weights["image"].tolist() == [AgainstAlike.weight]


def test_a_phrase_that_is_there_in_another_colour_too_does_not_speak_against(embedded):
    # Without "green trumpet" this pair is a little more similar; with any other colour on average it is much less so.
    scene = make_scene(212_176, kind="attribute")
    batch = embedded.preprocess_pairs([Pair("a", scene.image, scene.text)])
    span = scene.spans[0]
    without = effects(embedded, batch, WithoutPhrase([span]).directions(embedded, batch))
    contest = AgainstAlike([span]).contest(embedded, batch)
    assert without < 0 and contest.contested and contest.shown >= SHOWN
    ((phrase,),) = explain_phrases(Occlusion(embedded), batch, [[span]])
    assert phrase.effect == pytest.approx(float(contest.effect), abs=1e-6) and phrase.effect > 0
    (expected,) = Occlusion(embedded).attribute(AgainstAlike([span]).aim(embedded, batch))
    np.testing.assert_allclose(phrase.image_map, expected.image_map, atol=1e-5)


@pytest.mark.parametrize(
    ("without", "contested", "shown", "effect", "sharper"),
    [
        (0.3, False, 0.2, 0.3, True),
        (0.3, False, -0.1, 0.3, False),
        (-0.3, False, 0.2, -0.3, False),
        (-0.3, True, SHOWN, 0.07, True),
        (-0.3, True, SHOWN - 0.01, -0.3, False),
        (0.3, True, SHOWN - 0.01, 0.3, True),
    ],
)
def test_what_a_phrase_is_explained_against_and_what_its_effect_is(
    embedded, batch, scenes, monkeypatch, without, contested, shown, effect, sharper
):
    one = batch.keep([0])
    picture = normalize(embedded.embed("image", one), dim=-1)
    numbers = torch.tensor([contested]), torch.tensor([0.07]), torch.tensor([shown])
    contest = Contest(2 * picture, torch.zeros_like(picture), *numbers)
    monkeypatch.setattr(AgainstAlike, "contest", lambda self, backbone, batch: contest)
    monkeypatch.setattr(WithoutPhrase, "directions", lambda self, backbone, batch: {"image": without * picture})
    seen = []

    class Watched(Occlusion):
        def attribute(self, batch):
            seen.append(batch.targets["image"])
            return super().attribute(batch)

    ((phrase,),) = explain_phrases(Watched(embedded), one, [[scenes[0].spans[0]]])
    assert phrase.effect == pytest.approx(effect, abs=1e-5)
    torch.testing.assert_close(seen[0], (2 if sharper else abs(without)) * picture, atol=1e-5, rtol=1e-4)
