"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"
"""Ends the name of a file that is being written; it is hidden, so that nobody reads it with its finished neighbours."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, to be written to; it takes the name when the block has ended well and all is on the disk.

    Until then, and for good if the block raises, what was there under the name stays as it was. Processes that write
    the same name at once do not disturb each other: the last one wins.

    Args:
        path: The name, in a folder that exists.

    Raises:
        OSError: The disk is full or the folder cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> note = Path(mkdtemp()) / "note.txt"
        >>> with replacing(note) as unfinished:
        ...     _ = unfinished.write_text("whole")
        ...     note.exists()
        False
        >>> note.read_text()
        'whole'
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        yield unfinished
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def drop_unfinished(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing to a folder. Nobody may be writing there."""
    for file in folder.glob(f".*{UNFINISHED}"):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
