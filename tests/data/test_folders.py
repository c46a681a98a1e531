from pathlib import Path

import pytest

from m2ib_lightning.data.folders import IMAGES, CaptionFolder
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.types import BadPair


def test_images_of_a_folder_and_its_subfolders_are_pairs_with_the_text_beside_them(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name in ("b.PNG", ".hidden.png", "z.csv", "in/b.dcm", "in/b.jpg", "x.txt", "c.gif", "d"):
        (tmp_path / name).touch()
    (tmp_path / "b.txt").write_text("\ufeff a bee \n", "utf-8")
    (tmp_path / "in" / "b.txt").write_bytes("caf\xe9".encode("latin-1"))
    source = CaptionFolder(tmp_path)
    first, second, third, fourth = source.references()
    assert first == PairReference("b", str(tmp_path / "b.PNG"), "a bee")
    assert second == PairReference("c", str(tmp_path / "c.gif"), "")
    assert (third.id, third.text, third.source) == ("in-b", "", str(tmp_path / "in" / "b.dcm"))
    assert isinstance(third, BadPair) and third.error.startswith("Expected text in UTF-8 but got ")
    assert third.error.endswith(f" in {tmp_path}/in/b.txt. Remedy: save it as UTF-8.")
    assert fourth.id == "in-b-2" and source.count() == 4
    assert [pair.id for pair in source] == ["b", "c", "in-b", "in-b-2"]


def test_every_kind_of_picture_is_seen(tmp_path: Path):
    for suffix in IMAGES:
        (tmp_path / f"a{suffix}").touch()
    (tmp_path / "a.txt").write_text("x")
    assert CaptionFolder(tmp_path).count() == len(IMAGES) == 10


@pytest.mark.parametrize("names", [[], ["a.png", "b.jpg"], ["a.txt"]])
def test_a_folder_without_images_that_have_captions_is_refused_with_its_number(names, tmp_path: Path):
    for name in names:
        (tmp_path / name).write_text("x")
    count = sum(not name.endswith("txt") for name in names)
    for use in (CaptionFolder.count, lambda source: list(source.references())):
        with pytest.raises(
            ValueError, match=f"^Expected images with captions in {tmp_path} but got {count} images and no captions. "
        ):
            use(CaptionFolder(tmp_path))
