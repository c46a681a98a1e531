"""Hard scenes hold what makes them hard, and tell the truth about words that name nothing there."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.data.hard_scenes import SEEN, WIDTHS, Placed
from m2ib_lightning.data.scenes import make_scene, object_names, turned

SIZE = 96
MADE = [make_scene(seed, kind="hard") for seed in range(60)]

KEPT = "6c167b4d26270c2c"
"""A hash over all of them, so that numbers that were published of hard scenes stay comparable."""


def test_three_to_eight_different_objects_of_which_one_or_two_are_named():
    counts = {len(scene.objects) for scene in MADE}
    named = {sum(item.named for item in scene.objects) for scene in MADE}
    assert counts == {3, 4, 5, 6, 7, 8} and named == {1, 2}
    assert all(len({item.name for item in scene.objects}) == len(scene.objects) for scene in MADE)


def test_objects_are_of_all_sizes_hide_one_another_and_are_cut_by_the_border():
    boxes = [item.box for scene in MADE for item in scene.objects]
    whole = [right - left for left, top, right, bottom in boxes if min(left, top) > 0 and max(right, bottom) < SIZE]
    assert min(whole) < 1.5 * WIDTHS[0] * SIZE and max(whole) > 0.8 * WIDTHS[1] * SIZE
    cut = np.mean([min(left, top) == 0 or max(right, bottom) == SIZE for left, top, right, bottom in boxes])
    assert 0.2 < cut < 0.7
    hidden = 0
    for scene in MADE:
        drawn = np.zeros((SIZE, SIZE), dtype=int)
        for item in scene.objects:
            left, top, right, bottom = item.box
            drawn[top:bottom, left:right] += 1
        hidden += (drawn > 1).any()
    assert hidden > 40


def test_enough_is_seen_of_every_named_object():
    for scene in MADE:
        for index, item in enumerate(scene.objects):
            left, top, right, bottom = item.box
            if item.named and right - left == bottom - top:  # not cut, so that its size is known
                shape = np.asarray(turned(item.name, item.art, False, 0).getchannel("A").resize((right - left,) * 2))
                assert (scene.labels == index).sum() > 0.8 * SEEN * (shape > 127).sum()


def test_every_name_in_a_caption_is_true_or_said_to_be_absent():
    wrong = 0
    for scene in MADE:
        shown = {item.name for item in scene.objects}
        true = [scene.text[start:end] for start, end in scene.spans]
        absent = [scene.text[start:end] for start, end in scene.absent]
        assert true == [item.name for item in scene.objects if item.named]
        assert len(absent) <= 1 and not shown & set(absent) and set(absent) <= set(object_names())
        words = scene.text.replace(",", "").split()
        assert sorted(word for word in words if word in object_names()) == sorted(true + absent)
        wrong += len(absent)
    assert 10 < wrong < 30  # a third of 60


def test_no_word_is_new_to_the_embedded_model():
    known = {word for seed in range(400) for word in make_scene(seed, named=2).text.replace(",", "").split()}
    assert {word for scene in MADE for word in scene.text.replace(",", "").split()} - known <= set(object_names())


def test_backgrounds_have_more_edges_than_clutter():
    def edges(kind):
        steps = []
        for seed in range(10):
            scene = make_scene(seed, kind=kind)
            change = np.abs(np.diff(np.asarray(scene.image, dtype=int), axis=1)).sum(-1)
            steps.append((change > 60)[scene.labels[:, 1:] < 0].mean())
        return np.mean(steps)

    assert edges("hard") > 1.2 * edges("clutter")


def test_objects_given_by_name_are_all_shown_and_the_first_are_named():
    scene = make_scene(3, objects=("cat", "key", "house"), named=2, kind="hard")
    assert [(item.name, item.named) for item in scene.objects] == [("cat", True), ("key", True), ("house", False)]


@pytest.mark.parametrize("size", [48, 224])
def test_truth_follows_the_size(size):
    scene = make_scene(5, kind="hard", size=size)
    assert scene.image.size == scene.mask.shape == (size, size) and scene.mask.any()


def test_hard_scenes_stay_what_they_were():
    whole = hashlib.sha256()
    for scene in MADE:
        whole.update(
            scene.image.tobytes() + scene.labels.tobytes() + repr((scene.text, *scene[2:3], *scene[4:])).encode()
        )
    assert whole.hexdigest()[:16] == KEPT


def test_a_drawing_beyond_the_border_covers_and_is_boxed_by_what_is_in_the_picture():
    drawing = Image.new("RGBA", (4, 6), (9, 9, 9, 127))
    drawing.paste((9, 9, 9, 128), (0, 0, 4, 3))
    for left, top, box in (
        (2, 1, (2, 1, 6, 7)),
        (-1, -2, (0, 0, 3, 4)),
        (8, 7, (8, 7, 10, 10)),
        (6, 4, (6, 4, 10, 10)),
    ):
        placed = Placed(drawing, left, top)
        expected = np.zeros((10, 10), dtype=bool)
        expected[max(0, top) : max(0, top + 3), max(0, left) : max(0, left + 4)] = True
        np.testing.assert_array_equal(placed.covered(10), expected)
        assert placed.box(10) == box


@pytest.mark.parametrize(("objects", "named"), [(1, 1), (2, 2), (4, 3), (3, 1)])
def test_at_most_so_many_objects_are_shown_and_named(objects, named):
    scenes = [make_scene(seed, objects, named, kind="hard") for seed in range(30)]
    assert {len(scene.objects) for scene in scenes} == set(range(min(3, objects), objects + 1))
    assert {sum(item.named for item in scene.objects) for scene in scenes} == set(range(1, named + 1))
