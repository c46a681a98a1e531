"""Composed scenes: the truth about pixels and words is true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2ib_lightning.data.scenes import ARTS, SceneObject, make_caption, make_scene, object_names, sprite

scenes = st.builds(
    lambda seed, objects, named, size: make_scene(seed, objects, min(named, objects), size),
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([48, 96, 224]),
)


def inside(item: SceneObject, shape: tuple[int, ...]) -> np.ndarray:
    """(size, size) bool, the pixels of an object's box."""
    left, top, right, bottom = item.box
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_scene_is_a_function_of_its_seed(seed: int, objects: int):
    first, again, other = make_scene(seed, objects), make_scene(seed, objects), make_scene(seed + 1, objects)
    np.testing.assert_array_equal(np.asarray(first.image), np.asarray(again.image))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.caption, first.objects, first.spans) == (again.caption, again.objects, again.spans)
    assert not np.array_equal(np.asarray(first.image), np.asarray(other.image))


@settings(max_examples=30, deadline=None)
@given(scenes)
def test_spans_name_the_named_objects_in_order_and_no_other_name_is_in_the_caption(scene):
    named = [item.name for item in scene.objects if item.named]
    assert [scene.caption[start:end] for start, end in scene.spans] == named
    rest = scene.caption
    for start, end in reversed(scene.spans):
        rest = rest[:start] + rest[end:]
    assert not set(rest.replace(",", " ").split()) & set(object_names())


@settings(max_examples=30, deadline=None)
@given(scenes)
def test_named_objects_come_first_and_all_are_different(scene):
    flags = [item.named for item in scene.objects]
    assert flags == sorted(flags, reverse=True)
    assert sum(flags) == len(scene.spans)
    assert len({item.name for item in scene.objects}) == len(scene.objects)


@settings(max_examples=30, deadline=None)
@given(scenes)
def test_labels_and_mask_lie_in_the_boxes_of_their_objects(scene):
    size = scene.image.width
    assert scene.image.mode == "RGB" and scene.image.size == (size, size) == scene.labels.shape
    expected = np.zeros_like(scene.mask)
    for index, item in enumerate(scene.objects):
        left, top, right, bottom = item.box
        assert 0 <= left < right <= size and 0 <= top < bottom <= size
        assert not ((scene.labels == index) & ~inside(item, scene.labels.shape)).any()
        if item.named:
            expected |= scene.labels == index
    assert scene.labels.min() >= -1 and scene.labels.max() < len(scene.objects)
    np.testing.assert_array_equal(scene.mask, expected)


def test_most_of_a_named_object_is_seen():
    shares = []
    for seed in range(50):
        scene = make_scene(seed)
        left, top, right, bottom = scene.objects[0].box
        shares.append(scene.mask.sum() / ((right - left) * (bottom - top)))
    assert np.median(shares) > 0.4  # drawings fill about 70 % of their box


def test_objects_can_be_chosen_and_the_first_get_named():
    scene = make_scene(7, objects=("cat", "key", "house"), named=2)
    assert [(item.name, item.named) for item in scene.objects] == [("cat", True), ("key", True), ("house", False)]
    assert [scene.caption[start:end] for start, end in scene.spans] == ["cat", "key"]


def test_articles_fit_the_name():
    captions = [make_caption(("apple", "cat"), np.random.default_rng(seed))[0] for seed in range(40)]
    assert not any("a apple" in f" {caption}" or "an cat" in caption for caption in captions)
    assert len(set(captions)) > 10


def test_every_object_is_drawn_in_every_art():
    for name in object_names():
        for art in ARTS:
            drawing = sprite(name, art)
            assert (drawing.mode, drawing.size) == ("RGBA", (64, 64))
            assert np.asarray(drawing.getchannel("A")).max() > 127


@pytest.mark.parametrize(("objects", "named"), [(3, 0), (2, 3), (0, 0), (1000, 1), (("cat",), 2)])
def test_impossible_numbers_of_objects_are_refused(objects, named: int):
    with pytest.raises(ValueError, match=r"Expected 1 <= named <= objects .* but got .* Remedy: "):
        make_scene(0, objects=objects, named=named)


@pytest.mark.parametrize(("name", "art"), [("unicorn-tractor", "noto"), ("cat", "crayon")])
def test_an_unknown_drawing_is_refused(name: str, art: str):
    with pytest.raises(ValueError, match=f"but got '{name}', '{art}'. Remedy: "):
        sprite(name, art)
