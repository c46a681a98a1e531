import numpy as np
import pytest

from m2ib_lightning.data.composed import SceneReference, Scenes
from m2ib_lightning.data.scenes import make_scene
from m2ib_lightning.types import Asked


def test_scenes_count_up_from_their_seed_and_begin_with_0():
    assert [pair.id for pair in Scenes(3, 9)] == ["scene-000009", "scene-000010", "scene-000011"]
    assert [pair.id for pair in Scenes(1)] == ["scene-000000"]
    source = Scenes(2, 41, 4, 3, "clutter")
    assert (len(source), source.count(), source.fixed) == (2, 2, True) and source.holds_images is False
    expected = make_scene(42, 4, 3, kind="clutter")
    for found in (source[1].scene, source.scene(1), list(source.references())[1].scene, source[-1].scene):
        assert (found.text, found.objects) == (expected.text, expected.objects)


def test_a_scene_as_a_pair_has_its_picture_text_and_truth():
    pair, expected = SceneReference(7, 3, 2), make_scene(7, 3, 2)
    assert (pair.id, pair.text, pair.place, pair.asked) == ("scene-000007", expected.text, "", Asked())
    np.testing.assert_array_equal(np.asarray(pair.image), np.asarray(expected.image))
    np.testing.assert_array_equal(pair.truth.mask, expected.mask)
    assert pair.truth.spans == expected.spans and pair.scene is pair.scene


def test_the_kind_says_how_many_objects_there_are_where_nothing_else_does():
    assert (Scenes(1, kind="two_of_four").objects, Scenes(1, kind="two_of_four").named) == (4, 2)
    assert (Scenes(1, objects=5).objects, Scenes(1, objects=5).named) == (5, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "`scenes` to be at least 1 but got 0"),
        ({"count": 1, "seed": -1}, "`scene_seed` to be at least 0 but got -1"),
        ({"count": 1, "named": 4}, "1 <= named <= objects"),
        ({"count": 1, "kind": "dark"}, "`scene_kind`"),
    ],
)
def test_scenes_that_cannot_be_are_refused_at_once(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)
