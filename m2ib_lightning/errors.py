"""What the command line says of an error: one line, with the remedy."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

from m2ib_lightning.data.dicom import MissingExtra
from m2ib_lightning.printable import printable
from m2ib_lightning.store import StoreError


def explained(error: Exception) -> str | None:
    """What to tell the user of an error that is no fault of the program, None for one that may be."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Expected room on the disk but got {error}. Remedy: make room, then the same command."
    return str(error) if isinstance(error, ValueError | StoreError | MissingExtra) else None


def fail(message: str) -> NoReturn:
    """End the command with one line on standard error and the exit status 2."""
    print(f"m2ib: error: {printable(message)}", file=sys.stderr)
    sys.exit(2)
