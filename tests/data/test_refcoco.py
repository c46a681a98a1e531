from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.data.images import StoredImage
from m2ib_lightning.data.refcoco import RefCOCO
from m2ib_lightning.data.truth import Polygon, TruthReference

OUTLINE = [4.0, 6.0, 20.0, 6.0, 20.0, 16.0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def made(folder: Path, **changed: list) -> RefCOCO:
    columns = {
        "question_id": ["70", "71"],
        "image": [{"bytes": b"PNG", "path": "a.jpg"}] * 2,
        "question": ["Which?"] * 2,
        "answer": [["the dog", "dog left"], ["cat"]],
        "segmentation": [OUTLINE, []],
        "bbox": [[4.0, 6.0, 16.0, 10.0], [1.0, 2.0, 30.0, 50.0]],
    } | changed
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "data" / "val-00000-of-00001.parquet")
    return RefCOCO(str(folder))


def test_every_expression_is_a_pair_whose_whole_text_names_the_outline_or_else_the_box(tmp_path: Path):
    source = made(tmp_path)
    dog, cat = Polygon(OUTLINE), (1.0, 2.0, 31.0, 52.0)
    assert [(pair.id, pair.text, pair.image, pair.truth) for pair in source] == [
        ("70-0", "the dog", StoredImage("a.jpg", b"PNG"), TruthReference([dog], parts=[((0, 7), [dog])])),
        ("70-1", "dog left", StoredImage("a.jpg", b"PNG"), TruthReference([dog], parts=[((0, 8), [dog])])),
        ("71-0", "cat", StoredImage("a.jpg", b"PNG"), TruthReference([cat], parts=[((0, 3), [cat])])),
    ]
    assert source.count() is None and source.part(0, 1) is None and source.split == "val"


@pytest.mark.parametrize(
    "changed",
    [{"answer": ["the dog", "cat"]}, {"bbox": [[1.0, 2.0, 3.0]] * 2}, {"bbox": [[1.0, 2.0, 3.0, 4.0, 5.0]] * 2}],
)
def test_rows_of_another_data_set_are_refused(changed: dict, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"^Expected a list of expressions and a box in row 1 of .* but got .*the dog.* "
    ):
        next(iter(made(tmp_path, **changed)))
