"""What COCO's files say becomes pairs, and what they do not say is named."""

import json
from pathlib import Path

import pytest

from m2ib_lightning.data.coco import COCO, SYNONYMS, coco_box, named_categories, read_coco, regions_of
from m2ib_lightning.data.pairs import PairReference
from m2ib_lightning.data.truth import Polygon, RunLengths, TruthReference
from m2ib_lightning.types import Truth


def saved(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Captions and instances of two pictures, the second one of unknown size."""
    images = [{"id": 7, "file_name": "seven.jpg", "width": 40, "height": 30}, {"id": 8, "file_name": "eight.jpg"}]
    captions = [
        {"image_id": 7, "id": 1, "caption": " A man with Dogs\n"},
        {"image_id": 8, "id": 2, "caption": "the cat"},
        {"image_id": 8, "id": 3, "caption": "a dog"},
    ]
    outline = [1, 1, 5, 1, 5, 5]
    things = [
        {"image_id": 7, "category_id": 18, "segmentation": [outline], "bbox": [1, 1, 4, 4]},
        {"image_id": 7, "category_id": 1, "segmentation": [], "bbox": [10, 2, 3, 20]},
        {"image_id": 7, "category_id": 18, "segmentation": {"counts": [0, 1200], "size": [30, 40]}, "bbox": []},
        {"image_id": 8, "category_id": 17, "segmentation": [outline], "bbox": []},
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    return (
        saved(tmp_path / "captions.json", {"images": images, "annotations": captions}),
        saved(tmp_path / "instances.json", {"annotations": things, "categories": categories}),
    )


def test_a_caption_is_a_pair_with_the_outlines_crowds_and_boxes_of_what_it_names(files):
    source = COCO(files[0], "pictures", files[1])
    dogs, man = [Polygon([1, 1, 5, 1, 5, 5]), RunLengths([0, 1200], (30, 40))], [(10, 2, 13, 22)]
    truth = TruthReference(man + dogs, [(2, 5), (11, 15)], (40, 30), [((2, 5), man), ((11, 15), dogs)])
    cat = [Polygon([1, 1, 5, 1, 5, 5])]
    first, *others = source.references()
    assert sorted(first.truth.regions, key=repr) == sorted(truth.regions, key=repr)
    assert first._replace(truth=first.truth._replace(regions=truth.regions)) == PairReference(
        "7-1", "pictures/seven.jpg", "A man with Dogs", truth, "caption 1"
    )
    assert others == [
        PairReference("8-2", "pictures/eight.jpg", "the cat",
                      TruthReference(cat, [(4, 7)], None, [((4, 7), cat)]), "caption 2"),
        PairReference("8-3", "pictures/eight.jpg", "a dog", Truth(), "caption 3"),
    ]  # fmt: skip
    assert source.count() == 3


def test_without_instances_there_is_no_truth_and_other_synonyms_take_the_place_of_ours(files):
    assert [pair.truth for pair in COCO(files[0], "").references()] == [Truth()] * 3
    assert COCO(files[0], "").synonyms is SYNONYMS
    first, second, _ = COCO(*(files[0], "", files[1]), synonyms={"cat": ["the"]}).references()
    assert first.truth.spans == [(11, 15)] and second.truth.spans == [(0, 3), (4, 7)]


def test_the_longest_name_counts_in_singular_or_plural_whatever_its_case():
    words = {"bear": ["bear"], "teddy bear": ["Teddy Bear"], "bus": ["bus"], "person": ["person", "people"]}
    text = "BEARS, teddy bears and two buses of people, a bearskin"
    assert named_categories(text, words) == {
        (0, 5): "bear", (7, 18): "teddy bear", (27, 32): "bus", (36, 42): "person"
    }  # fmt: skip
    assert named_categories(text, {}) == {}


def test_segmentations_are_outlines_boxes_or_run_lengths():
    outline, box = [0, 0, 4, 0, 4, 4], [1, 2, 30, 50]
    assert coco_box(box) == (1, 2, 31, 52)
    assert regions_of([outline, box]) == [Polygon(outline), (1, 2, 31, 52)] and regions_of([]) == []
    assert regions_of({"counts": [3, 5], "size": [2, 4]}) == [RunLengths([3, 5], (2, 4))]
    for compressed in ("3f", b"3f"):
        with pytest.raises(ValueError, match=r"numbers but got a compressed string. Remedy: .*pycocotools"):
            regions_of({"counts": compressed, "size": [2, 4]})


def test_what_is_missing_is_named(files, tmp_path: Path):
    assert set(read_coco(files[0], "images")) == {"images", "annotations"}
    for content in ({"images": {}}, {}, [], "images"):
        path = saved(tmp_path / "x.json", content)
        with pytest.raises(ValueError, match=f"^Expected images, more in {path} but there are none. Remedy: give"):
            read_coco(path, "images", "more")
    with pytest.raises(ValueError, match=f"^Expected images in {tmp_path}/x.json but"):
        read_coco(saved(tmp_path / "x.json", {"images": {}, "more": []}), "images", "more")
    with pytest.raises(ValueError, match=r"^Expected a COCO file but got nowhere: .*Remedy: correct the path"):
        read_coco("nowhere")
    with pytest.raises(ValueError, match="a COCO file but got nowhere"):
        COCO(files[0], "", "nowhere").count()
    orphan = {"images": [], "annotations": [{"image_id": 5, "id": 1, "caption": "x"}]}
    path = saved(tmp_path / "x.json", orphan)
    with pytest.raises(ValueError, match=f"^Expected an image 5 in {path} but there is none. Remedy: get"):
        list(COCO(path, "").references())
