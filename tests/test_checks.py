"""Which arguments are refused, at each limit and beside it."""

import math

import pytest

from m2ib_lightning.checks import check_at_least, check_between, check_choice


@pytest.mark.parametrize("value", [0.5, 0.6, math.inf])
def test_the_smallest_value_that_is_allowed_is_allowed(value):
    assert check_at_least("share", value, 0.5) is None


@pytest.mark.parametrize("value", [0.4999, -math.inf, math.nan])
def test_what_is_smaller_or_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"Expected `share` to be at least 0\.5 but got"):
        check_at_least("share", value, 0.5)


def test_what_lies_between_two_limits_is_allowed_and_the_limits_are_not():
    for value in (0.001, 0.5, 0.999):
        check_between("keep", value, 0, 1)
    for value in (0.0, 1.0, -1, 2, math.nan):
        with pytest.raises(ValueError, match="Expected `keep` to be above 0 and below 1 but got"):
            check_between("keep", value, 0, 1)


def test_a_word_that_is_known_is_allowed_and_another_one_gets_the_nearest():
    check_choice("style", "patch", ("smooth", "patch"))
    with pytest.raises(ValueError, match=r"one of 'smooth', 'patch' but got 'path'\. Remedy: did you mean patch\?"):
        check_choice("style", "path", ("smooth", "patch"))
    with pytest.raises(ValueError, match=r"but got 3\. Remedy: choose one of these\."):
        check_choice("style", 3, ("smooth", "patch"))
