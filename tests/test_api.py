import numpy as np
import pytest

import m2ib_lightning as m2ib
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import Baseline, RandomMap

FAST = {"steps": 2, "noise_samples": 2}


def test_a_list_of_pairs_is_explained_in_order_and_whatever_the_batch_size(tmp_path):
    scenes = [make_scene(i) for i in range(3)]
    path = tmp_path / "scene.png"
    scenes[1].image.save(path)
    images = [scenes[0].image, path, scenes[2].image]
    texts = [scene.text for scene in scenes]
    together, alone = (m2ib.explain(images, texts, batch_size=size, **FAST) for size in (8, 1))
    assert [a.text for a in together] == texts
    assert together[1].source == str(path)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.image_map, b.image_map, rtol=1e-3, atol=1e-3)


def test_one_image_goes_with_several_texts():
    results = m2ib.explain(make_scene(7, ("cat", "key")).image, ["a cat", "a key"], **FAST)
    assert [a.text for a in results] == ["a cat", "a key"]


def test_a_loaded_backbone_and_a_class_are_taken_as_they_are():
    backbone = m2ib.load_backbone("embedded")
    result = m2ib.explain(make_scene(1).image, "a cat", backbone=backbone, method=m2ib.M2IB, **FAST)[0]
    assert result.settings["method"] == "M2IB" and result.settings["weights"] == backbone.weight_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": [], "texts": []}, "Remedy"),
        ({"texts": ["a", "b"], "images": [make_scene(0).image] * 3}, "3 images and 2 texts"),
        ({"texts": "  "}, "empty"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"method": "tarot"}, "one of .*m2ib.*'tarot'"),
        ({"method": "baseline"}, "one of attentionrollout,.* centreprior, .*'baseline'"),
        ({"images": "nowhere.png"}, r"nowhere\.png"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        m2ib.explain(**{"images": make_scene(0).image, "texts": "a cat", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": None}, r"^Expected `texts` to be a text or a list of texts but got NoneType\. Remedy: "),
        ({"texts": ["a cat", 3]}, r"`texts` to be a text .* but got int"),
        ({"images": None}, r"`images` to be a picture or a path, .* but got NoneType"),
        ({"images": np.zeros((3, 4, 3))}, r"`images` .* but got ndarray"),
        ({"backbone": object()}, r"`backbone` to be a name or what `load_backbone` gives but got object"),
        ({"method": m2ib.M2IB("embedded")}, r"`method` to be a name or a class below AttributionMethod"),
        ({"method": Baseline}, r"but got Baseline without relevance\. Remedy: .* one of attentionrollout,.* centre"),
        ({"imgbeta": 1}, r"argument of M2IB but got `imgbeta`\. Remedy: did you mean image_beta\?"),
        ({"method": "occlusion", "tarot": 1}, r"argument of Occlusion but got `tarot`\. Remedy: Occlusion takes "),
    ],
)
def test_what_is_of_another_kind_is_named_in_one_line_before_anything_is_computed(arguments, message):
    with pytest.raises(TypeError, match=message) as raised:
        m2ib.explain(**{"images": make_scene(0).image, "texts": "a cat", **arguments})
    assert "\n" not in str(raised.value)


def test_pairs_that_a_backbone_preprocesses_keep_their_texts_and_have_words():
    backbone = m2ib.load_backbone("embedded")
    pictures = [make_scene(i).image for i in range(2)]
    found = RandomMap(backbone).attribute(backbone.preprocess(pictures, ["a cat", "one red key"]))
    assert [[word for word, _ in a.words()] for a in found] == [["a", "cat"], ["one", "red", "key"]]
    assert [(a.id, a.text) for a in found] == [("0", "a cat"), ("1", "one red key")]


def test_what_is_asked_of_each_pair_goes_with_it():
    key = make_scene(7, ("cat", "key"))
    kind = {"method": "saliency"}
    (a,) = m2ib.explain(key.image, "a cat", phrases=["cat"], regions=[(0, 0, 48, 48)], **kind)
    assert [phrase.text for phrase in a.phrases] == ["cat"] and len(a.regions) == 1
    none, foil = m2ib.explain([key.image] * 2, ["a cat", "a key"], against=["a dog", "a bus"], **kind)
    assert (none.settings["against"], foil.settings["against"]) == ("a dog", "a bus")
    assert not (none.phrases or none.regions)


def test_eight_pairs_are_computed_at_once_unless_another_number_is_asked_for(monkeypatch):
    sizes = []

    class Counting(RandomMap):
        def attribute(self, batch):
            sizes.append(len(batch.pairs))
            return super().attribute(batch)

    picture = make_scene(0).image
    assert len(m2ib.explain([picture] * 9, "a cat", method=Counting)) == 9 and sizes == [8, 1]
    sizes.clear()
    m2ib.explain(picture, ["a", "b", "c"], method=Counting, batch_size=2)
    assert sizes == [2, 1]


def test_a_calibration_gives_settings_and_what_is_asked_for_goes_first(monkeypatch):
    made = {"image_layer": 3, "image_beta": 0.5, "text_beta": 0.7}
    monkeypatch.setattr(m2ib.Calibration, "arguments", staticmethod(lambda folder: dict(made)))
    given = []

    class Recorded(RandomMap):
        def __init__(self, backbone, image_layer=1, image_beta=3.0, text_beta=4.0, keep=None):
            super().__init__(backbone)
            given.append((image_layer, image_beta, text_beta, keep))

    picture = make_scene(0).image
    for arguments in ({}, {"image_beta": 9.0}, {"keep": 0.9}):
        m2ib.explain(picture, "a cat", method=Recorded, calibration="folder", **arguments)
    m2ib.explain(picture, "a cat", method=Recorded)
    assert given == [(3, 0.5, 0.7, None), (3, 9.0, 0.7, None), (3, 3.0, 4.0, 0.9), (1, 3.0, 4.0, None)]


@pytest.mark.parametrize("method", [int, 3, object()])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(TypeError, match="Expected `method` to be a name or a class below AttributionMethod but got"):
        m2ib.explain(make_scene(0).image, "a cat", method=method)
