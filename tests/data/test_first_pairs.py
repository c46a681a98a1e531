import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from m2ib_lightning.data.first_pairs import FirstPairs
from m2ib_lightning.data.images import StoredImage
from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.data.truth import TruthReference
from m2ib_lightning.types import BadPair


class Stream(PairSource):
    """Pairs of which it is known how many were taken."""

    def __init__(self, pairs) -> None:
        self.pairs, self.taken = pairs, 0

    def references(self):
        for pair in self.pairs:
            self.taken += 1
            yield pair


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_the_first_readable_pairs_are_found_once_and_the_others_kept_with_their_reason(picture):
    outside = TruthReference([(90, 90, 99, 99)])
    source = Stream(
        [
            PairReference("a", "nowhere.png", "a cat"),
            PairReference("b", picture, "a cat"),
            BadPair("c", "", "", "gone"),
            PairReference("d", picture, "a cat", outside),
            PairReference("e", picture, "a dog"),
            PairReference("f", picture, "a bee"),
        ]
    )
    found = FirstPairs(source, 2)
    assert found.bad == [] and source.taken == 0
    assert [pair.id for pair in found] == ["b", "e"] and found.count() == 2 and source.taken == 5
    assert [bad.id for bad in found.bad] == ["a", "c", "d"] and found.bad[1].error == "gone"
    assert "within 8 x 6 pixels" in found.bad[2].error
    assert FirstPairs(source, 9).count() == 3


def test_the_hash_is_over_ids_captions_and_contents_and_not_over_times(picture):
    pairs = [
        PairReference("a", picture, "a cat"),
        PairReference("b", Image.new("L", (20, 20)), "a half"),
        PairReference("c", StoredImage("in a shard", Path(picture).read_bytes()), "a dog"),
    ]
    data = Path(picture).read_bytes()
    content = hashlib.blake2b(data, digest_size=16).hexdigest()
    whole = hashlib.sha256()
    for told in (
        ("a", "a cat", str(len(data)), content),
        ("b", "a half", "", ""),
        ("c", "a dog", str(len(data)), content),
    ):
        whole.update(repr(told).encode())
    assert FirstPairs(Stream(pairs), 9).digest == whole.hexdigest()[:16]
    os.utime(picture, ns=(5, 5))
    assert FirstPairs(Stream(pairs), 9).digest == whole.hexdigest()[:16]


def test_where_none_can_be_read_the_first_reason_is_said(picture):
    bad = [BadPair("a", "", "", "first reason"), BadPair("b", "", "", "second")]
    with pytest.raises(ValueError, match=r"^Expected pairs that can be read but got none of 2: first reason$"):
        FirstPairs(Stream(bad), 1).count()
    with pytest.raises(ValueError, match=r"none of 0: the source is empty. Remedy: give the data as released"):
        FirstPairs(Stream([]), 1).count()
