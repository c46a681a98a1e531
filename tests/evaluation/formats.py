"""Small copies of the data of published tables, in the layout, names and columns of the releases."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (48, 36), form: str = "JPEG") -> bytes:
    """Noise, as the bytes of a file."""
    file, rng = io.BytesIO(), np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(file, form)
    return file.getvalue()


def conceptual_captions(folder: Path, count: int = 4) -> None:
    """pixparse/cc3m-wds: shards of the validation split with jpg, txt and json of one key."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "cc3m-validation-0000.tar", "w") as tar:
        for i in range(count):
            about = {"caption": f"picture {i}", "url": f"http://x/{i}.jpg", "key": f"{i:09d}", "status": "success"}
            files = {"jpg": picture(i), "json": json.dumps(about).encode(), "txt": f"a dog near a tree {i}".encode()}
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"{i:09d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def flickr8k(folder: Path, count: int = 4) -> None:
    """jxie/flickr8k: Parquet files by split, with five captions in columns."""
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", 1), ("test", count)):
        table = {"image": [{"bytes": picture(i), "path": f"{i}.jpg"} for i in range(rows)]}
        table |= {f"caption_{k}": [f"A dog near a tree , {i} {k} ." for i in range(rows)] for k in range(5)}
        pq.write_table(pa.table(table), folder / "data" / f"{split}-00000-of-00001.parquet")


def refcoco(folder: Path, count: int = 3) -> None:
    """lmms-lab/RefCOCO: Parquet files by split, an object a row with its expressions, outline and box."""
    (folder / "data").mkdir(parents=True)
    rows = [
        {
            "question_id": str(469306 + i),
            "image": {"bytes": picture(i), "path": f"COCO_train2014_{i:012d}_0.jpg"},
            "question": "Provide a short description for this region.",
            "answer": ["the dog", "dog left"][: 1 + i % 2],
            "segmentation": [4.0, 6.0, 20.0, 6.0, 20.0, 16.0, 4.0, 16.0],
            "bbox": [4.0, 6.0, 16.0, 10.0],
            "iscrowd": 0,
            "file_name": f"COCO_train2014_{i:012d}_0.jpg",
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "val-00000-of-00001.parquet")


def imagenet_s(folder: Path) -> None:
    """ImageNetS919 beside LOC_synset_mapping.txt: two classes, two pictures of the first and one of the second."""
    tags = {"n01443537": 2, "n02084071": 1}
    for number, (tag, count) in enumerate(tags.items(), 1):
        for part in ("validation", "validation-segmentation"):
            (folder / "ImageNetS919" / part / tag).mkdir(parents=True)
        for i in range(count):
            name = f"ILSVRC2012_val_{1000 * number + i:08d}"
            (folder / "ImageNetS919" / "validation" / tag / f"{name}.JPEG").write_bytes(picture(i))
            mask = np.zeros((36, 48, 3), dtype=np.uint8)
            mask[6:16, 4:20, 0] = number
            mask[20:24, :8] = (1000 % 256, 1000 // 256, 0)  # left open
            Image.fromarray(mask).save(folder / "ImageNetS919" / "validation-segmentation" / tag / f"{name}.png")
    names = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn02084071 dog, domestic dog\n"
    (folder / "LOC_synset_mapping.txt").write_text(names)


def ms_cxr(folder: Path, count: int = 3) -> None:
    """MS_CXR_Local_Alignment_v1.1.0.csv beside pictures of MIMIC-CXR-JPG."""
    heads = "category_name,label_text,path,x,y,w,h,image_width,image_height,split"
    lines = []
    for i in range(count):
        path = f"files/p10/p1000{i}/s5000{i}/{i}-d-f.jpg"
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(picture(i))
        lines.append(f"Pneumonia,a dog near the tree,{path},4,6,16,10,48,36,test")
    (folder / "MS_CXR_Local_Alignment_v1.1.0.csv").write_text("\n".join([heads, *lines]) + "\n")


MAKE: dict[str, Callable[[Path], None]] = {
    "nib-cc": conceptual_captions,
    "m2ib-cc": conceptual_captions,
    "nib-flickr8k": flickr8k,
    "adaib-refcoco": refcoco,
    "adaib-refcocog": refcoco,
    "legrad-imagenet-s": imagenet_s,
    "grad-eclip-imagenet-s": imagenet_s,
    "m2ib-ms-cxr": ms_cxr,
}
"""What makes the folder that `--data` of a table takes."""
