import pytest

from m2ib_lightning.data.ids import Ids


def test_made_ids_are_short_file_names_counted_where_they_repeat():
    ids = Ids()
    given = ["cat", "Cat", "CAT", "cat-2", "cat", "a b/c?.d", "-.x.-", "", "...", "\xe9\u732b", "x" * 70, "x" * 61]
    assert [ids.make(name) for name in given] == [
        "cat", "Cat-2", "CAT-3", "cat-2-2", "cat-4", "a-b-c-.d", "x", "image", "image-2", "\xe9\u732b",
        "x" * 60, "x" * 60 + "-2",
    ]  # fmt: skip
    assert ids.make("y" * 59) == "y" * 59


def test_given_ids_may_be_what_can_be_a_file_name_and_only_once():
    ids = Ids()
    for fine in ("a", "A", "a b", "x" * 200, "\u732b" * 66, ".a", "a."):
        assert ids.fault(fine, "line 1") == ""
    assert ids.fault("a", "line 9") == (
        "Expected distinct ids but got 'a' again in line 9. Remedy: rename one, or drop the id column to have ids made."
    )
    assert ids.make("a") != "a" and ids.make("b") == "b" and ids.fault("b", "line 2") != ""


@pytest.mark.parametrize(
    "name", ["", " . ", "..", "x" * 201, "\u732b" * 67, *(f"a{c}b" for c in '\0\x1f/\\:*?"<>|\ud800')]
)
def test_given_ids_that_can_be_no_file_name_are_named_with_their_place(name):
    assert Ids().fault(name, "line 2 of x") == (
        f"Expected an id that can be a file name but got {name!r:.80} in line 2 of x. "
        "Remedy: use letters, digits, '.', '-' and '_', or no id column."
    )
