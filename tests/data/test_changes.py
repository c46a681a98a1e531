import os
from pathlib import Path

from PIL import Image

from m2ib_lightning.data.changes import changed_pairs
from m2ib_lightning.data.composed import Scenes
from m2ib_lightning.data.images import fingerprint
from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.types import BadPair


class Given(PairSource):
    """Pairs that are looked at so many times."""

    def __init__(self, *pairs: PairReference | BadPair) -> None:
        self.pairs, self.asked = pairs, 0

    def references(self):
        self.asked += 1
        return iter(self.pairs)


def test_it_is_said_of_each_pair_that_was_explained_what_is_another_now(tmp_path: Path):
    paths = {name: tmp_path / f"{name}.png" for name in ("same", "text", "image", "both", "new", "bad")}
    for path in paths.values():
        Image.new("L", (3, 2)).save(path)
    before = {name: (f"a {name}", fingerprint(path)) for name, path in paths.items() if name != "new"}
    before["gone"] = ("a gone one", "1-2-3")
    for name in ("image", "both"):
        Image.new("L", (5, 4), 9).save(paths[name])
    texts = {name: f"another {name}" if name in ("text", "both", "new") else f"a {name}" for name in paths}
    pairs = [PairReference(name, str(paths[name]), texts[name]) for name in paths if name != "bad"]
    source = Given(BadPair("bad", "another text", "", "gone"), *pairs)
    assert changed_pairs(source, before) == {"text": "caption", "image": "image", "both": "caption and image"}
    assert source.asked == 1


def test_nothing_is_looked_at_where_nothing_was_explained_or_can_change(monkeypatch):
    source = Given(PairReference("a", "nowhere.png", "a cat"))
    assert changed_pairs(source, {}) == {} and source.asked == 0
    assert changed_pairs(source, {"a": ("a dog", "")}) == {"a": "caption"}
    source.fixed = True
    assert changed_pairs(source, {"a": ("a dog", "")}) == {} and source.asked == 1
    assert changed_pairs(Scenes(2), {"scene-000000": ("another text", "")}) == {}


def test_a_picture_that_was_only_touched_is_the_same(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.new("L", (3, 2)).save(path)
    before = {"a": ("a cat", fingerprint(path))}
    os.utime(path, ns=(5, 5))
    assert changed_pairs(Given(PairReference("a", str(path), "a cat")), before) == {}
