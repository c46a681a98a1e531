import hashlib

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.data.scene_kinds import COLOURS, KINDS, relation, scatter, scene_counts, tint

COUNTS = {"two_of_four": (4, 2), "relation": (3, 2), "hard": (8, 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_usual_numbers_unless_others_are_given(kind):
    objects, named = COUNTS.get(kind, (3, 1))
    assert scene_counts(kind) == (objects, named)
    assert scene_counts(kind, 7) == (7, named) and scene_counts(kind, 0, 2) == (0, 2)
    if kind == "relation":
        for other in (0, 1, 3):
            with pytest.raises(
                ValueError, match=f"^Expected named=2 in .* 'relation' but got named={other}. Remedy: l"
            ):
                scene_counts(kind, named=other)
    else:
        assert scene_counts(kind, None, 3) == (objects, 3) and scene_counts(kind, 5, 0) == (5, 0)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ((10, 10, 20, 20), "right"),  # where it is as far in no direction
        ((9, 10, 20, 20), "left"),
        ((11, 11, 20, 20), "right"),  # as far down as across
        ((9, 9, 20, 20), "left"),
        ((11, 9, 20, 20), "right"),
        ((10, 9, 20, 20), "above"),
        ((10, 11, 20, 20), "below"),
        ((10, 10, 20, 21), "below"),
        ((10, 10, 19, 20), "left"),
        ((0, 60, 90, 90), "below"),
        ((60, 0, 90, 90), "right"),
    ],
)
def test_a_relation_is_that_of_centres_along_the_axis_where_they_are_further_apart(first, said):
    assert relation(first, (10, 10, 20, 20)).split()[0] == said


@pytest.mark.parametrize(
    ("size", "kept"), [(40, "d2cfd3df1e61ed98"), (96, "35873723ae309afc"), (240, "ae6ce2b001f4bb7f")]
)
def test_sixty_fragments_stay_what_they_were_at_any_size(size, kept):
    image = Image.new("RGB", (size, size))
    scatter(image, np.random.default_rng(3))
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == kept


@pytest.mark.parametrize("colour", COLOURS)
def test_a_drawing_of_one_grey_is_tinted_in_the_colour_itself_and_keeps_its_shape(colour):
    drawing = Image.new("RGBA", (6, 4), (90, 90, 90, 255))
    drawing.paste((0, 0, 0, 0), (0, 0, 3, 4))
    found = np.asarray(tint(drawing, colour))
    named = {"red": (225, 45, 45), "green": (45, 165, 65), "blue": (50, 90, 225), "yellow": (245, 205, 40)}[colour]
    assert np.abs(found[0, 5, :3].astype(int) - named).max() <= 1 and COLOURS[colour] == named
    np.testing.assert_array_equal(found[..., 3], np.asarray(drawing)[..., 3])
