"""Ids of pairs: distinct, and fit to name the files that are written for a pair."""

from __future__ import annotations

import re

UNNAMED = "\0"
"""Stands for an id that is to be made."""


class Ids:
    """The ids given out so far. Keeps each of them: about 0.1 GB for a million.

    Example:
        >>> ids = Ids()
        >>> ids.make("cat"), ids.make("cat"), ids.fault("7", "line 2"), ids.fault("a?", "line 3")
        ('cat', 'cat-2', '', "Expected an id that can be a file name but got 'a?' in line 3. Remedy: use letters, ...")
    """

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.count: dict[str, int] = {}

    def make(self, name: str) -> str:
        """A file name like the name given, distinct from all others also where upper and lower case are one."""
        stem = unique = re.sub(r"[^\w.]+", "-", name).strip("-.")[:60] or "image"
        while unique.casefold() in self.taken:
            self.count[stem.casefold()] = self.count.get(stem.casefold(), 1) + 1
            unique = f"{stem}-{self.count[stem.casefold()]}"
        self.taken |= {unique, unique.casefold()}
        return unique

    def fault(self, name: str, place: str) -> str:
        """Why a given id cannot be, in one line, or "" and the id is taken."""
        unsafe = re.search(r'[\x00-\x1f/\\:*?"<>|\ud800-\udfff]', name) or not name.strip(". ")
        if unsafe or len(name.encode("utf-8", "replace")) > 200:
            return (
                f"Expected an id that can be a file name but got {name!r:.80} in {place}. "
                "Remedy: use letters, digits, '.', '-' and '_', or no id column."
            )
        if name in self.taken:
            return (
                f"Expected distinct ids but got {name!r} again in {place}. "
                "Remedy: rename one, or drop the id column to have ids made."
            )
        self.taken.add(name)
        return ""
