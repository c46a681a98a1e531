"""A folder of images, each with its caption beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from m2ib_lightning.data.ids import Ids
from m2ib_lightning.data.images import DICOM
from m2ib_lightning.data.pairs import PairReference, PairSource
from m2ib_lightning.types import BadPair

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", *DICOM)
"""Suffixes that make a file of a folder an image."""


class CaptionFolder(PairSource):
    """Images, also in subfolders, each with its caption beside it in a .txt file of the same name.

    Ids are made from the paths. An image without a caption has an empty text, which is a bad pair, as is one whose
    caption is not UTF-8.

    Args:
        folder: Where the pictures and captions are.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def references(self) -> Iterator[PairReference | BadPair]:
        """The pairs, sorted by path.

        Raises:
            ValueError: There are no images or no captions.
        """
        ids = Ids()
        for image in self._images():
            caption = image.with_suffix(".txt")
            name = ids.make(image.relative_to(self.folder).with_suffix("").as_posix())
            try:
                text = caption.read_text("utf-8-sig").strip() if caption.is_file() else ""
                yield PairReference(name, str(image), text)
            except UnicodeDecodeError as problem:
                fault = f"Expected text in UTF-8 but got {problem} in {caption}. Remedy: save it as UTF-8."
                yield BadPair(name, "", str(image), fault)

    def count(self) -> int:
        """The number of images.

        Raises:
            ValueError: There are no images or no captions.
        """
        return len(self._images())

    def _images(self) -> list[Path]:
        images = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in IMAGES and p.name[0] != ".")
        if not any(image.with_suffix(".txt").is_file() for image in images):
            raise ValueError(
                f"Expected images with captions in {self.folder} but got {len(images)} images and no captions. "
                "Remedy: a metadata.csv with the columns file_name and text, or cat.txt beside cat.jpg."
            )
        return images
