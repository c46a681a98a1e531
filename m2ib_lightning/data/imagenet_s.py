"""ImageNet-S: pictures of ImageNet with the pixels of their class (Gao et al., TPAMI 2022, arXiv 2106.03149)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from m2ib_lightning.data.images import ImageSource, StoredImage, open_stored
from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.data.truth import MaskFile, TruthReference
from m2ib_lightning.types import Truth

PLACE = "Remedy: give the folder that ImageNet-S's data_preparation.sh writes, such as ImageNetS919."


class ImageNetS(PairSource):
    """A pair for each picture of the validation set and the name of its class; the truth is the pixels of the class.

    Reads `validation/TAG/*.JPEG` and `validation-segmentation/TAG/*.png`, whose R + 256 G is the number of a class: the
    place of its tag among the sorted ones, from 1; 0 is another thing and 1000 was left open, which count as not true.

    Args:
        folder: The folder of the data set, such as ImageNetS919.
        names: A file with a tag and its names a line, "n01443537 goldfish, Carassius auratus", as ImageNet's
            LOC_synset_mapping.txt; the first name is taken.
        prompt: The caption; the place takes the name.
    """

    def __init__(self, folder: str, names: str, prompt: str = "a photo of a {}.") -> None:
        self.folder, self.names, self.prompt = Path(folder), Path(names), prompt

    def references(self) -> Iterator[PairReference]:
        """The pairs; the first picture of every class, then the second of every class, and so on.

        So that the first so many are of many classes.

        Raises:
            ValueError: A folder, the file of names or a name is missing.
        """
        pictures = self.folder / "validation"
        tags = sorted(path.name for path in pictures.iterdir() if path.is_dir()) if pictures.is_dir() else []
        if not tags:
            raise ValueError(f"Expected a folder for each class in {pictures} but there are none. {PLACE}")
        if not self.names.is_file():
            raise ValueError(f"Expected a file of names but {self.names} does not exist. Remedy: correct the path.")
        lines = self.names.read_text("utf-8").splitlines()
        names = {tag: rest.split(",")[0].strip() for tag, _, rest in (line.partition(" ") for line in lines)}
        missing = [tag for tag in tags if not names.get(tag)]
        if missing:
            raise ValueError(f"Expected a name of {missing[0]} in {self.names} but it has none. Remedy: add a line.")
        files = [sorted(path for path in (pictures / tag).iterdir() if path.suffix == ".JPEG") for tag in tags]
        for turn in range(max(map(len, files))):
            for number, (tag, of_class) in enumerate(zip(tags, files, strict=True), 1):
                if turn < len(of_class):
                    image = of_class[turn]
                    mask = self.folder / "validation-segmentation" / tag / f"{image.stem}.png"
                    truth = ClassTruth(str(mask), number)
                    yield PairReference(image.stem, str(image), self.prompt.format(names[tag]), truth)


class ClassTruth(NamedTuple):
    """The pixels of a class in a picture of class numbers, read only where they are wanted.

    Attributes:
        mask: The file with the numbers of classes.
        number: The number of the class, from 1.
    """

    mask: str
    number: int

    def read(self, image: ImageSource, size: tuple[int, int], text: str) -> Truth:
        """The truth of the picture, as a `TruthReference` gives it."""
        numbers = np.asarray(open_stored(self.mask).convert("RGB"), dtype=int)
        found, file = numbers[..., 0] + 256 * numbers[..., 1] == self.number, io.BytesIO()
        if not found.any():
            return Truth()
        Image.fromarray(found).save(file, "PNG")
        return TruthReference([MaskFile(StoredImage(self.mask, file.getvalue()))]).read(image, size, text)
