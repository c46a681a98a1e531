from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.data.imagenet_s import ClassTruth, ImageNetS
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.types import Truth

NAMES = "n1 tench, Tinca tinca\nn2 goldfish\nn3 dog, hound\nn9 not here\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of two, no and one picture."""
    for tag, files in {"n1": ["b.JPEG", "a.JPEG", "a.txt"], "n2": [], "n3": ["c.JPEG"]}.items():
        (tmp_path / "validation" / tag).mkdir(parents=True)
        for file in files:
            (tmp_path / "validation" / tag / file).touch()
    (tmp_path / "validation" / "list.txt").touch()
    (tmp_path / "names.txt").write_text(NAMES)
    return tmp_path


def test_the_first_picture_of_every_class_comes_before_the_second(folder: Path):
    def pair(tag: str, name: str, text: str, number: int) -> PairReference:
        truth = ClassTruth(str(folder / "validation-segmentation" / tag / f"{name}.png"), number)
        return PairReference(name, str(folder / "validation" / tag / f"{name}.JPEG"), text, truth)

    source = ImageNetS(str(folder), str(folder / "names.txt"))
    assert list(source.references()) == [
        pair("n1", "a", "a photo of a tench.", 1),
        pair("n3", "c", "a photo of a dog.", 3),
        pair("n1", "b", "a photo of a tench.", 1),
    ]
    source = ImageNetS(str(folder), str(folder / "names.txt"), "the {}")
    assert [pair.text for pair in source.references()] == ["the tench", "the dog", "the tench"]


def test_the_truth_is_the_pixels_of_the_number_of_the_class_alone(tmp_path: Path):
    numbers = np.array([[0, 1, 1], [2, 257, 1000], [260, 513, 4]])
    values = np.stack([numbers % 256, numbers // 256, np.full((3, 3), 7)], -1).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    for number in (1, 2, 4, 257, 260, 513, 1000):
        truth = ClassTruth(str(tmp_path / "m.png"), number).read("x.JPEG", (3, 3), "a dog")
        np.testing.assert_array_equal(truth.mask, numbers == number)
        assert truth.spans is None
    assert ClassTruth(str(tmp_path / "m.png"), 3).read("x.JPEG", (3, 3), "a dog") == Truth()
    doubled = ClassTruth(str(tmp_path / "m.png"), 1).read("x.JPEG", (6, 6), "a dog")
    np.testing.assert_array_equal(doubled.mask, np.kron(numbers == 1, np.ones((2, 2))) > 0)


def test_what_is_missing_is_named(folder: Path):
    with pytest.raises(
        ValueError, match=f"a folder for each class in {folder}/n/validation but there are none. Remedy"
    ):
        list(ImageNetS(str(folder / "n"), "names").references())
    with pytest.raises(ValueError, match=r"a file of names but nowhere does not exist. Remedy: correct the path"):
        list(ImageNetS(str(folder), "nowhere").references())
    (folder / "names.txt").write_text("n1 tench\nn3\n")
    with pytest.raises(ValueError, match=f"a name of n2 in {folder}/names.txt but it has none. Remedy: add a line"):
        list(ImageNetS(str(folder), str(folder / "names.txt")).references())
    (folder / "names.txt").write_text("n1 tench\nn2 x\n")
    with pytest.raises(ValueError, match="a name of n3"):
        list(ImageNetS(str(folder), str(folder / "names.txt")).references())
