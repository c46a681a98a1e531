"""One command at a time writes to a folder; the processes of that command share it."""

from __future__ import annotations

import errno
import time
import warnings
from pathlib import Path
from typing import IO

from m2ib_lightning.errors import StoreError

PATIENCE = 20.0
"""Seconds in which the last processes of a killed command end by themselves."""


class FolderLock:
    """A lock that the system takes back when a process ends, however it ends.

    The first process of a command takes the folder for itself, prepares it, and shares it with the others.

    Args:
        folder: Made if it is not there; a hidden file in it carries the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None

    def take(self, patience: float | None = None) -> None:
        """Have the folder alone.

        Args:
            patience: Seconds to wait for others to leave it; `PATIENCE` by default.

        Raises:
            StoreError: They did not, or the folder cannot be made.
        """
        self._wait(True, PATIENCE if patience is None else patience)

    def share(self) -> None:
        """Let the other processes of this command in, or be one of them.

        Raises:
            StoreError: Another command has taken the folder in between.
        """
        self._wait(False, PATIENCE)  # a lock that is changed is given up first, and others may still hold theirs

    def release(self) -> None:
        """Leave the folder to others; nothing happens where it is not held."""
        if self._file is not None:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None

    def _wait(self, alone: bool, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not self._lock(alone):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"Expected no other process that writes to {self.folder} but there is one. "
                    "Remedy: wait until it has ended, stop it, or choose another --output."
                )
            time.sleep(0.2)

    def _lock(self, alone: bool) -> bool:
        """Whether the folder could be locked, or has no locks."""
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = (self.folder / ".lock").open("a+b")
            fcntl.flock(self._file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK) and self._file is not None:
                return False
            if problem.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise StoreError(
                    f"Expected to write to {self.folder} but got {problem.strerror}. Remedy: make it writable."
                ) from problem
            warnings.warn(
                f"{self.folder} is on a file system without locks. See that one command at a time writes there.",
                stacklevel=4,  # who takes the folder
            )
        return True
