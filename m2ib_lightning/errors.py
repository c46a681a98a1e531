"""The errors that are no fault of the program, and what the command line says of one: one line, with the remedy."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

from m2ib_lightning.printable import printable


class MissingExtra(RuntimeError):
    """An optional library is not installed. The message names it and the command that installs it."""


class UnsuitedModel(ValueError):
    """A method cannot explain models of this kind, whatever the pair. The message says why and the remedy."""


class StoreError(OSError):
    """A folder of results cannot be read or written. The message names the file or folder and the remedy."""


def explained(error: Exception) -> str | None:
    """What to tell the user of an error that is no fault of the program, None for one that may be."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Expected room on the disk but got {error}. Remedy: make room, then the same command."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"Expected to write or read {error.filename or 'a file'} but got {error.strerror}. "
            "Remedy: change its permissions, or choose another --output."
        )
    return str(error) if isinstance(error, ValueError | StoreError | MissingExtra) else None


def fail(message: str) -> NoReturn:
    """End the command with one line on standard error and the exit status 2."""
    print(f"m2ib: error: {printable(message)}", file=sys.stderr)
    sys.exit(2)
