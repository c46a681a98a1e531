"""Data sets in the format of their release become pairs with truth."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.cli import main
from m2ib_lightning.data import (
    COCO,
    MSCXR,
    ConceptualCaptions,
    Flickr30kEntities,
    PairDataModule,
    PairSource,
    RunLengths,
)
from m2ib_lightning.data.coco import named_categories
from m2ib_lightning.data.truth import draw
from m2ib_lightning.types import BadPair, Pair


def read(source: PairSource) -> list[Pair]:
    """All pairs with their truth, as `m2ib test` gets them."""
    data = PairDataModule(dataset=source, batch_size=64)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert len(batch) == len(data)
    return batch


def boxes(*given: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    return np.logical_or.reduce([draw(box, size) for box in given])


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, str]:
    """Two pictures, four captions, a polygon, a crowd and a box, as in captions_ and instances_val2017.json."""
    images = []
    for number, size in ((9, (40, 30)), (25, (20, 20))):
        Image.new("RGB", size).save(tmp_path / f"{number:012d}.jpg")
        images.append({"license": 1, "file_name": f"{number:012d}.jpg", "coco_url": "http://x/y.jpg", "id": number,
                       "width": size[0], "height": size[1]})  # fmt: skip
    captions = [
        {"image_id": 9, "id": 661, "caption": "Two DOGS and a man eat a hot dog.\n"},
        {"image_id": 9, "id": 662, "caption": "A pizza on the grass"},
        {"image_id": 25, "id": 7, "caption": "an orange cat"},
        {"image_id": 25, "id": 8, "caption": "a crowd of people"},
    ]
    crowd = {"counts": [0, 20, 380], "size": [20, 20]}  # the first column
    things = [
        {"segmentation": [[2, 2, 8, 2, 8, 6, 2, 6]], "bbox": [2, 2, 6, 4], "category_id": 18, "image_id": 9},
        {"segmentation": [[20, 20, 24, 20, 24, 24]], "bbox": [20, 20, 4, 4], "category_id": 18, "image_id": 9},
        {"segmentation": [], "bbox": [30, 1, 2, 2], "category_id": 1, "image_id": 9},
        {"segmentation": [[0, 0, 2, 0, 2, 2]], "bbox": [0, 0, 2, 2], "category_id": 58, "image_id": 9},
        {"segmentation": crowd, "bbox": [0, 0, 1, 20], "category_id": 1, "image_id": 25, "iscrowd": 1},
        {"segmentation": [[5, 5, 9, 5, 9, 9, 5, 9]], "bbox": [5, 5, 4, 4], "category_id": 17, "image_id": 25},
    ]
    things = [{"iscrowd": 0, "area": 1.0, "id": i} | thing for i, thing in enumerate(things)]
    names = {1: "person", 17: "cat", 18: "dog", 55: "orange", 58: "hot dog", 59: "pizza"}
    categories = [{"supercategory": "x", "id": i, "name": name} for i, name in names.items()]
    shared = {"info": {"year": 2017}, "licenses": [], "images": images}
    (tmp_path / "captions.json").write_text(json.dumps(shared | {"annotations": captions}))
    (tmp_path / "instances.json").write_text(json.dumps(shared | {"annotations": things, "categories": categories}))
    return {name: str(tmp_path / f"{name}.json") for name in ("captions", "instances")} | {"images": str(tmp_path)}


def test_coco_gives_the_instances_of_what_a_caption_names(coco):
    first, second, third, fourth = read(COCO(**coco))
    assert [pair.id for pair in (first, second, third, fourth)] == ["9-661", "9-662", "25-7", "25-8"]
    assert [first.text[a:b] for a, b in first.truth.spans] == ["DOGS", "man", "hot dog"]
    mask = first.truth.mask
    assert mask.shape == (30, 40)
    assert mask[3:6, 3:8].all() and mask[21, 23] and mask[1:3, 30:32].all() and mask[0, 1] and not mask[10:18].any()
    assert second.truth.mask is None and second.truth.spans is None  # no pizza was outlined
    assert [third.text[a:b] for a, b in third.truth.spans] == ["cat"]  # no orange was outlined
    assert third.truth.mask[6:9, 6:9].all() and not third.truth.mask[:4].any()
    np.testing.assert_array_equal(fourth.truth.mask, draw(RunLengths([0, 20, 380], (20, 20)), (20, 20)))
    assert fourth.truth.mask[:, 0].all() and not fourth.truth.mask[:, 1:].any()


def test_coco_without_instances_has_no_truth_and_its_own_synonyms_replace_ours(coco):
    assert all(pair.truth.mask is None for pair in read(COCO(coco["captions"], coco["images"])))
    fourth = read(COCO(**coco, synonyms={"cat": ["orange"]}))
    assert [fourth[2].text[a:b] for a, b in fourth[2].truth.spans] == ["orange", "cat"]
    assert fourth[3].truth.mask is None  # people


def test_names_of_categories_are_whole_words():
    words = {"cat": ["cat"], "bus": ["bus"], "teddy bear": ["teddy bear"], "bear": ["bear"]}
    assert named_categories("A caterpillar, buses; teddy bears concatenated", words) == {
        (15, 20): "bus",
        (22, 33): "teddy bear",
    }


def test_another_file_than_coco_is_named(coco, tmp_path: Path):
    with pytest.raises(ValueError, match=r"Expected categories in .*captions.json but there are none. Remedy: "):
        read(COCO(coco["captions"], coco["images"], coco["captions"]))
    for path in ("nowhere.json", coco["images"] + "/000000000009.jpg"):
        with pytest.raises(ValueError, match=r"Expected a COCO file but got .* Remedy: "):
            read(COCO(path, coco["images"]))


@pytest.fixture
def flickr(tmp_path: Path) -> dict[str, str]:
    for folder in ("Sentences", "Annotations", "images"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (50, 33)).save(tmp_path / "images" / "1000092795.jpg")
    (tmp_path / "Sentences" / "1000092795.txt").write_text(
        "[/EN#1/people Two young guys] with [/EN#2/bodyparts/clothing shaggy hair] in [/EN#4/scene the yard] .\n"
        "[/EN#0/notvisual It] is green .\n"
    )

    def thing(names: str, inside: str) -> str:
        return "<object>" + "".join(f"<name>{n}</name>" for n in names) + inside + "</object>"

    def box(*corners: int) -> str:
        names = ("xmin", "ymin", "xmax", "ymax")
        return "<bndbox>" + "".join(f"<{n}>{c}</{n}>" for n, c in zip(names, corners, strict=True)) + "</bndbox>"

    (tmp_path / "Annotations" / "1000092795.xml").write_text(
        "<annotation><filename>1000092795.jpg</filename>"
        "<size><width>50</width><height>33</height><depth>3</depth></size>"
        + thing("1", box(1, 1, 10, 20))
        + thing("12", box(21, 1, 30, 20))
        + thing("4", "<scene>1</scene><nobndbox>0</nobndbox>")
        + "</annotation>"
    )
    return {"annotations": str(tmp_path), "images": str(tmp_path / "images")}


def test_flickr30k_entities_gives_boxes_and_phrases(flickr):
    first, second = read(Flickr30kEntities(**flickr))
    assert (first.id, second.id) == ("1000092795-0", "1000092795-1")
    assert first.text == "Two young guys with shaggy hair in the yard ."
    assert [first.text[a:b] for a, b in first.truth.spans] == ["Two young guys", "shaggy hair"]
    # Pixels 1 to 10 of the file, the first and the last included, are 0 to 9 from 0.
    np.testing.assert_array_equal(first.truth.mask, boxes((0, 0, 10, 20), (20, 0, 30, 20), size=(50, 33)))
    assert second.text == "It is green ." and second.truth.mask is None


def test_flickr30k_entities_reads_a_split_and_names_what_is_missing(flickr, tmp_path: Path):
    (tmp_path / "test.txt").write_text("1000092795\n")
    assert len(read(Flickr30kEntities(**flickr, split=str(tmp_path / "test.txt")))) == 2
    (tmp_path / "test.txt").write_text("17\n")
    with pytest.raises(ValueError, match=r"Expected sentences in .*17.txt, which does not exist. Remedy: "):
        read(Flickr30kEntities(**flickr, split=str(tmp_path / "test.txt")))
    with pytest.raises(ValueError, match=r"Expected Sentences/\*.txt in .* but got none. Remedy: "):
        read(Flickr30kEntities(flickr["images"], flickr["images"]))
    (tmp_path / "Annotations" / "1000092795.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"Expected boxes in .*1000092795.xml but got: .* Remedy: "):
        read(Flickr30kEntities(**flickr))


def test_conceptual_captions_finds_pictures_by_line_checksum_or_name(tmp_path: Path):
    urls = ["http://a.b/cat.jpg", "http://a.b/dead.jpg", "http://c.d/dog.jpg"]
    texts = ['a "cat"', "gone", "a dog , sitting"]
    (tmp_path / "cc.tsv").write_text("".join(f"{text}\t{url}\n" for text, url in zip(texts, urls, strict=True)))
    names = {"{index:09d}.jpg": "{:09d}.jpg", "{crc32}": "{}", "{url_name}": "{}"}
    for pattern, stored in names.items():
        for index in (0, 2):
            keys = {"{index:09d}.jpg": index, "{crc32}": zlib.crc32(urls[index].encode())}
            name = stored.format(keys.get(pattern, urls[index].rsplit("/", 1)[-1]))
            Image.new("RGB", (2, 2)).save(tmp_path / name, "JPEG")
        source = ConceptualCaptions(str(tmp_path / "cc.tsv"), str(tmp_path), pattern, missing=False)
        assert [(pair.id, pair.text) for pair in read(source)] == [("000000000", texts[0]), ("000000002", texts[2])]
    data = PairDataModule(dataset=ConceptualCaptions(str(tmp_path / "cc.tsv"), str(tmp_path)))
    data.setup("predict")
    kinds = [type(pair) for pair in next(iter(data.predict_dataloader()))]
    assert data.count == 3 and kinds == [Pair, BadPair, Pair]


def test_conceptual_captions_refuses_other_files(tmp_path: Path):
    (tmp_path / "cc.tsv").write_text("a caption\n")
    with pytest.raises(ValueError, match=r"a tab and a URL in line 1 of .*cc.tsv but got 'a caption.* Remedy: "):
        read(ConceptualCaptions(str(tmp_path / "cc.tsv"), ""))
    with pytest.raises(ValueError, match=r"`file_name` of {index}, .* but got '{number}.jpg'. Remedy: "):
        ConceptualCaptions(str(tmp_path / "cc.tsv"), "", "{number}.jpg")
    with pytest.raises(ValueError, match=r"nowhere.tsv does not exist. Remedy: "):
        ConceptualCaptions("nowhere.tsv", "")


@pytest.fixture
def mscxr(tmp_path: Path) -> Path:
    """Two X-rays at a quarter of the annotated size."""
    paths = ["files/p10/p10032725/s50331901/687754ce-7420bfd3.jpg", "files/p11/p11/s5/b9f6.jpg"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        Image.new("L", (100, 80)).save(tmp_path / path)
    rows = [
        ("Pneumonia", "bilateral opacities", paths[0], 40, 80, 80, 40, "train"),
        ("Pneumonia", "bilateral opacities", paths[0], 200, 80, 80, 40, "train"),
        ("Pneumothorax", "small, left apical", paths[0], 0, 0, 40, 40, "train"),
        ("Edema", "edema", paths[1], 4, 8, 40, 40, "test"),
    ]
    lines = ["category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id,split"]
    for category, text, path, *box, split in rows:
        lines.append(f'{category},"{text}",{path},{",".join(map(str, box))},400,320,{Path(path).stem},{split}')
    (tmp_path / "ms.csv").write_text("\n".join(lines))
    images = [{"id": i, "file_name": Path(path).name, "path": path, "width": 400, "height": 320}
              for i, path in enumerate(paths)]  # fmt: skip
    things = [{"id": i, "image_id": paths.index(path), "category_id": 1, "label_text": text, "bbox": box, "area": 1}
              for i, (_, text, path, *box, _) in enumerate(rows)]  # fmt: skip
    (tmp_path / "ms.json").write_text(json.dumps({"images": images, "annotations": things, "categories": []}))
    return tmp_path


@pytest.mark.parametrize("name", ["ms.csv", "ms.json"])
def test_ms_cxr_gives_a_pair_for_each_finding_with_all_its_boxes(mscxr: Path, name: str):
    pairs = read(MSCXR(str(mscxr / name), str(mscxr)))
    assert [(pair.id, pair.text) for pair in pairs] == [
        ("687754ce-7420bfd3-0", "bilateral opacities"),
        ("687754ce-7420bfd3-1", "small, left apical"),
        ("b9f6-0", "edema"),
    ]
    expected = boxes((10, 20, 30, 30), (50, 20, 70, 30), size=(100, 80))  # a quarter of what the file says
    np.testing.assert_array_equal(pairs[0].truth.mask, expected)
    assert pairs[0].truth.spans is None


def test_ms_cxr_reads_a_split_and_names_what_is_wrong(mscxr: Path):
    assert [pair.text for pair in read(MSCXR(str(mscxr / "ms.csv"), str(mscxr), "test"))] == ["edema"]
    with pytest.raises(ValueError, match=r"Expected pairs in .*ms.csv but got none. Remedy: name another split"):
        read(MSCXR(str(mscxr / "ms.csv"), str(mscxr), "dev"))
    with pytest.raises(ValueError, match=r"Expected no `split` with the JSON file"):
        read(MSCXR(str(mscxr / "ms.json"), str(mscxr), "test"))
    (mscxr / "other.csv").write_text("path,label_text\na.jpg,x\n")
    with pytest.raises(ValueError, match=r"Expected columns category_name, x, .* in .*other.csv but got path, label"):
        read(MSCXR(str(mscxr / "other.csv"), str(mscxr)))


@pytest.mark.slow
def test_a_table_with_truth_is_scored(tmp_path: Path):
    import pandas as pd

    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "truth.csv").write_text(
        'image,text,boxes,spans\na.png,a cat,"[[0, 0, 20, 30]]","[[2, 5]]"\na.png,a dog,,\n'
    )
    main(["test", "--model", "CentrePrior", "--output", str(tmp_path / "out"), "--data.source",
          str(tmp_path / "truth.csv"), "--trainer.enable_progress_bar", "false"])  # fmt: skip
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    first, second = (scores[(scores["id"] == i) & (scores["method"] == "CentrePrior")] for i in ("a", "a-2"))
    assert abs(first["image/RelevanceMassAccuracy"].item() - 0.5) < 0.02  # half of what is centred
    assert second["image/RelevanceMassAccuracy"].isna().all()


@pytest.mark.slow
def test_the_command_line_names_an_adapter_and_scores_with_its_truth(flickr, tmp_path: Path, capsys):
    import pandas as pd

    main(["test", "--model", "RandomMap", "--output", str(tmp_path / "out"), "--data.dataset", "Flickr30kEntities",
          "--data.dataset.annotations", flickr["annotations"], "--data.dataset.images", flickr["images"],
          "--trainer.enable_progress_bar", "false"])  # fmt: skip
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    known = scores.groupby("id")["image/RelevanceMassAccuracy"].apply(lambda values: values.notna().all())
    assert known.to_dict() == {"1000092795-0": True, "1000092795-1": False}
