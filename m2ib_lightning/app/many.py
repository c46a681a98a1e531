"""Many pairs that a visitor uploads: a table with pictures, or pictures each with its caption beside it."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from m2ib_lightning.app.explaining import Explainer
from m2ib_lightning.app.pictures import read_picture
from m2ib_lightning.data.asked import read_asked
from m2ib_lightning.data.folders import IMAGES, CaptionFolder
from m2ib_lightning.data.images import StoredImage
from m2ib_lightning.data.pairs import PairReference, PairSource, Reference
from m2ib_lightning.data.tables import TABLES, Table
from m2ib_lightning.report.figure import save_pair_figure
from m2ib_lightning.report.gallery import save_gallery
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.types import BadPair, Pair

MOST_FILES = 2000
MOST_PAIRS = 500
BATCH = 8
KINDS = (*IMAGES, *TABLES, ".txt")


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        done: Pairs that are finished, bad ones among them.
        total: How many pairs there are in all.
        bad: What could not be explained, with its reason.
        gallery: The finished page as HTML, "" before.
        archive: Store, pictures and page in one file, None before.
    """

    done: int
    total: int
    bad: tuple[str, ...] = ()
    gallery: str = ""
    archive: Path | None = None


def gather(files: Sequence[str | Path], folder: Path) -> PairSource:
    """What was uploaded as pairs, the files put together in one folder by their names.

    A path in a table is looked for by its last part among what was uploaded, nowhere else.

    Raises:
        ValueError: There are too many files, two of one name, two tables, or nothing to explain.
    """
    if len(files) > MOST_FILES:
        raise ValueError(
            f"Expected at most {MOST_FILES} files but got {len(files)}. Remedy: `m2ib predict` takes any number."
        )
    for file in map(Path, files):
        if file.suffix.lower() in KINDS:
            if (folder / file.name).exists():
                raise ValueError(f"Expected files of different names but got {file.name} twice. Remedy: rename one.")
            shutil.copyfile(file, folder / file.name)
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES]
    if len(tables) > 1:
        raise ValueError(f"Expected one table but got {', '.join(t.name for t in tables)}. Remedy: give one at a time.")
    return Table(tables[0]) if tables else CaptionFolder(folder)


def explain_all(explainer: Explainer, files: Sequence[str | Path], output: Path) -> Iterator[Progress]:
    """Explain what was uploaded, batch by batch; others are answered in between.

    Args:
        explainer: The model and method that answer.
        files: The files that were uploaded.
        output: A folder for the archive.

    Raises:
        ValueError: The upload as a whole is of no use; said before anything is computed.
    """
    with tempfile.TemporaryDirectory() as name:
        inputs, work = Path(name) / "inputs", Path(name) / "results"
        inputs.mkdir()
        (work / "pictures").mkdir(parents=True)
        references = list(islice(gather(files, inputs), MOST_PAIRS + 1))
        if len(references) > MOST_PAIRS:
            raise ValueError(
                f"Expected at most {MOST_PAIRS} pairs but got more. Remedy: `m2ib predict` takes any number."
            )
        store, done = AttributionStore(work / "attributions"), []
        bad: list[BadPair] = []
        pictures = {}
        for start in range(0, len(references), BATCH):
            pairs = [_read(reference, inputs) for reference in references[start : start + BATCH]]
            good = [pair for pair in pairs if isinstance(pair, Pair)]
            with explainer.lock:
                found = explainer.default.explain(explainer.backbone.preprocess_pairs(good)) if good else []
            for pair, attribution in zip(good, found, strict=True):
                save_pair_figure(attribution, pair.image, work / "pictures" / f"{pair.id}.png")
                small = pair.image.copy()
                small.thumbnail((256, 256))
                pictures[pair.id] = small
            done += found
            bad += [pair for pair in pairs if isinstance(pair, BadPair)]
            yield Progress(len(done) + len(bad), len(references), _reasons(bad))
        if done or bad:
            store.append([*done, *bad])
        gallery = save_gallery(done, work / "gallery.html", lambda a: pictures.get(a.id)).path
        yield Progress(len(references), len(references), _reasons(bad), gallery.read_text("utf-8"), _pack(work, output))


def _read(reference: Reference | BadPair, folder: Path) -> Pair | BadPair:
    """The pair, its picture from the folder and from nowhere else."""
    if isinstance(reference, BadPair):
        return reference
    image = reference.image if isinstance(reference, PairReference) else ""
    file = folder / Path(str(image).replace("\\", "/")).name
    try:
        if isinstance(image, StoredImage) or not file.is_file():
            raise ValueError(f"Expected {file.name!r} among the uploaded files but it is not. Remedy: add it.")
        if not reference.text.strip():
            raise ValueError("Expected a caption but got an empty text. Remedy: write one or leave the pair out.")
        asked = read_asked(reference.asked, reference.text)
        if not isinstance(asked.against, str | None):
            raise ValueError(
                "Expected a caption to explain against but got a picture. Remedy: `m2ib predict` takes it."
            )
        return Pair(reference.id, read_picture(file), reference.text, file.name, asked=asked)
    except ValueError as problem:
        return BadPair(reference.id, reference.text, file.name, str(problem))


def _reasons(bad: Sequence[BadPair]) -> tuple[str, ...]:
    return tuple(f"{pair.id}: {pair.error}" for pair in bad)


def _pack(work: Path, output: Path) -> Path:
    archive = output / "m2ib-results.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(work.rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(work))
    return archive
