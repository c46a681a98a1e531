import json
from pathlib import Path

import pytest

from m2ib_lightning.data.ms_cxr import COLUMNS, MSCXR
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.data.truth import TruthReference

ROWS = [  # finding, picture, box and split
    ("opacity", "files/a.jpg", (1, 2, 30, 40), "train"),
    ("edema", "files/b.jpg", (0, 0, 5, 6), "test"),
    ("fluid, left", "files/a.jpg", (3, 3, 9, 9), "train"),
    ("opacity", "files/a.jpg", (50, 2, 7, 8), "train"),
    ("opacity", "files/b.jpg", (9, 9, 9, 9), "val"),
]


@pytest.fixture
def csv(tmp_path: Path) -> str:
    lines = [",".join((*COLUMNS, "split"))]
    lines += [f'x,"{text}",{path},{",".join(map(str, box))},400,320.0,{split}' for text, path, box, split in ROWS]
    (tmp_path / "ms.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "ms.csv")


def truth(*boxes: tuple[int, int, int, int]) -> TruthReference:
    return TruthReference(list(boxes), size=(400, 320))


EVERY = [
    PairReference("a-0", "x/files/a.jpg", "opacity", truth((1, 2, 31, 42), (50, 2, 57, 10))),
    PairReference("b-0", "x/files/b.jpg", "edema", truth((0, 0, 5, 6))),
    PairReference("a-1", "x/files/a.jpg", "fluid, left", truth((3, 3, 12, 12))),
    PairReference("b-1", "x/files/b.jpg", "opacity", truth((9, 9, 18, 18))),
]


def test_a_finding_of_a_picture_is_a_pair_with_all_its_boxes(csv):
    source = MSCXR(csv, "x")
    assert list(source.references()) == EVERY and source.count() == 4


def test_the_json_file_says_the_same_and_pictures_without_a_path_are_called_by_their_file(tmp_path: Path):
    size = {"width": 400, "height": 320}
    images = [{"id": 5, "path": "files/a.jpg", "file_name": "a.jpg", **size}, {"id": 6, "file_name": "b.jpg", **size}]
    things = [{"image_id": 5 + path.endswith("b.jpg"), "label_text": text, "bbox": box} for text, path, box, _ in ROWS]
    things[0]["label_text"] = ["opacity", "haze"]
    (tmp_path / "ms.JSON").write_text(json.dumps({"images": images, "annotations": things}))
    found = list(MSCXR(str(tmp_path / "ms.JSON"), "x").references())
    haze = PairReference("a-1", "x/files/a.jpg", "haze", truth((1, 2, 31, 42)))
    beside = [pair._replace(image="x/b.jpg") if pair.id[0] == "b" else pair for pair in EVERY]
    assert found == [beside[0], haze, beside[1], beside[2]._replace(id="a-2"), beside[3]]
    with pytest.raises(
        ValueError, match=r"^Expected no `split` with the JSON file, which has none. Remedy: give the CSV"
    ):
        MSCXR(str(tmp_path / "ms.JSON"), "x", "test").count()


def test_a_split_is_read_alone(csv):
    assert [pair.text for pair in MSCXR(csv, "x", "train").references()] == ["opacity", "fluid, left"]
    assert list(MSCXR(csv, "x", "val").references()) == [EVERY[3]._replace(id="b-0")]
    with pytest.raises(ValueError, match=f"^Expected pairs in {csv} but got none. Remedy: name another split"):
        MSCXR(csv, "x", "dev").count()


def test_what_is_wrong_is_named(csv, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^Expected a file but nowhere.csv does not exist. Remedy: correct the path"):
        MSCXR("nowhere.csv", "").count()
    whole = Path(csv).read_text()
    Path(csv).write_text(whole.replace(",split", ",part"))
    assert MSCXR(csv, "x").count() == 4
    with pytest.raises(ValueError, match=f"^Expected columns split in {csv} but got category_name, .*, part. Remedy"):
        MSCXR(csv, "x", "test").count()
    Path(csv).write_text(whole.replace(",x,y,", ",y,z,").replace(",w,", ",v,"))
    with pytest.raises(ValueError, match=f"^Expected columns x, w in {csv} but got "):
        MSCXR(csv, "x").count()
    Path(csv).write_text(whole.replace("50,2,7,8", "50,2,wide,8"))
    with pytest.raises(
        ValueError, match=f"^Expected numbers in line 5 of {csv} but .*'wide'. Remedy: correct the line"
    ):
        MSCXR(csv, "x").count()
