"""What a user is told of an error, and which errors are the program's own."""

import errno

import pytest

from m2ib_lightning.errors import MissingExtra, StoreError, explained


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "--output"),
        (errno.EPERM, "--output"),
        (errno.EROFS, "--output"),
    ],
)
def test_a_full_or_forbidden_disk_is_said_with_its_remedy(code, remedy):
    said = explained(OSError(code, "what the system says", "there.parquet"))
    assert remedy in said and "what the system says" in said and "there.parquet" in said


def test_what_is_said_already_is_said_as_it_stands_and_other_errors_are_ours():
    for error in (ValueError("Expected this."), StoreError("Expected that."), MissingExtra("Expected wandb.")):
        assert explained(error) == str(error)
    for error in (OSError(errno.EIO, "Input/output error"), KeyError("a"), RuntimeError("out of range")):
        assert explained(error) is None
