"""Conceptual Captions, whose images everybody downloads for themselves (Sharma et al., ACL 2018)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from os.path import join
from pathlib import Path

from m2ib_lightning.data.pairs import PairReference, PairSource


class ConceptualCaptions(PairSource):
    """A pair for each line "caption<TAB>url" whose image is at hand under a name made from its place or its URL.

    Many URLs are dead by now: their pairs come as bad ones, or not at all.

    Args:
        captions: The file, such as Train_GCC-training.tsv; it has no header and no quoting.
        images: The folder of the pictures.
        file_name: How a picture is called: {index} is its line counted from 0, {crc32} the checksum of its URL in
            decimal, {url_name} the last part of the URL.
        missing: Whether pairs without a picture are bad pairs or left out. Left out, every file is looked for.
    """

    def __init__(self, captions: str, images: str, file_name: str = "{index:09d}.jpg", missing: bool = True) -> None:
        self.captions, self.images, self.file_name, self.missing = Path(captions), images, file_name, missing
        try:
            self._path(0, "")
        except (KeyError, ValueError, IndexError) as problem:
            raise ValueError(
                f"Expected `file_name` of {{index}}, {{crc32}} and {{url_name}} but got {file_name!r}. "
                "Remedy: use those."
            ) from problem
        if not self.captions.is_file():
            raise ValueError(f"Expected a file of captions but {captions} does not exist. Remedy: correct the path.")

    def references(self) -> Iterator[PairReference]:
        """The pairs, line by line; the id is the line counted from 0, with nine digits.

        Raises:
            ValueError: A line is no caption and URL.
        """
        with self.captions.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for index, line in enumerate(file):
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) != 2:
                    raise ValueError(
                        f"Expected a caption, a tab and a URL in line {index + 1} of {self.captions} but got "
                        f"{line!r:.80}. Remedy: give the file as released."
                    )
                image = self._path(index, cells[1])
                if self.missing or Path(image).is_file():
                    yield PairReference(f"{index:09d}", image, cells[0], place=f"line {index + 1} of {self.captions}")

    def _path(self, index: int, url: str) -> str:
        checksum = zlib.crc32(url.encode())
        return join(self.images, self.file_name.format(index=index, crc32=checksum, url_name=url.rsplit("/", 1)[-1]))

    def count(self) -> int | None:
        """The number of lines, None where pairs without a picture are left out."""
        return sum(1 for _ in self.references()) if self.missing else None
