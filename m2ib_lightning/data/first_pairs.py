"""The first pairs of a source that can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property

from m2ib_lightning.data.images import fingerprint
from m2ib_lightning.data.pairs import PairSource, Reference, read_or_record
from m2ib_lightning.types import BadPair


class FirstPairs(PairSource):
    """The first so many pairs of a source that can be read, truth and all; those that cannot are counted.

    They are found once, when they are first asked for, so that a streamed source is streamed once. Images that a source
    holds stay in memory as the bytes of their files.

    Args:
        source: Where the pairs come from.
        most: How many pairs there are at most.

    Attributes:
        bad: The pairs that were passed over, with the reason; complete once the pairs were asked for.

    Raises:
        ValueError: None can be read, with the reason of the first.
    """

    def __init__(self, source: PairSource, most: int) -> None:
        self.source, self.most = source, most
        self.bad: list[BadPair] = []

    def references(self) -> Iterator[Reference]:
        """The pairs, in the order of the source."""
        return iter(self._found)

    def count(self) -> int:
        """How many there are; finds them."""
        return len(self._found)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of a SHA-256 over ids, captions and what the image files hold."""
        whole = hashlib.sha256()
        for pair in self._found:
            # Size and content of a file; in between stands its time, which a copy does not keep.
            kept = fingerprint(pair.image).split("-")
            whole.update(repr((pair.id, pair.text, kept[0], kept[-1])).encode("utf-8", "backslashreplace"))
        return whole.hexdigest()[:16]

    @cached_property
    def _found(self) -> list[Reference]:
        found: list[Reference] = []
        for pair in self.source:
            tried = read_or_record(pair, truth=True)
            if isinstance(tried, BadPair) or isinstance(pair, BadPair):
                assert isinstance(tried, BadPair)
                self.bad.append(tried)
            else:
                found.append(pair)
            if len(found) == self.most:
                break
        if not found:
            reason = self.bad[0].error if self.bad else "the source is empty. Remedy: give the data as released."
            raise ValueError(f"Expected pairs that can be read but got none of {len(self.bad)}: {reason}")
        return found
