"""Pairs for the trainer: from the command line, from files, or composed scenes."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from m2ib_lightning.data.pairs import PairReference, check_all, make_references, read_pair, read_source
from m2ib_lightning.data.scenes import Scene, make_scene
from m2ib_lightning.types import BadPair, Pair, Truth


class SceneReferences:
    """Composed scenes as pairs, each made when it is asked for. The one of seed 7 has the id "scene-000007".

    Args:
        count: How many.
        seed: Of the first scene; the next one has the next seed.
        objects: How many objects each scene shows.
        named: How many of them its caption names.

    Raises:
        ValueError: There are no such scenes.
    """

    def __init__(self, count: int, seed: int = 0, objects: int = 3, named: int = 1) -> None:
        _at_least(1, scenes=count)
        _at_least(0, scene_seed=seed)
        self.seeds, self.objects, self.named = range(seed, seed + count), objects, named
        self.scene(0)  # refuses numbers of objects that cannot be

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> PairReference:
        scene = self.scene(index)
        truth = Truth(scene.mask, scene.spans)
        return PairReference(f"scene-{self.seeds[index]:06d}", scene.image, scene.caption, truth)

    def scene(self, index: int) -> Scene:
        """The scene behind a pair, with the truth about its pixels and words."""
        return make_scene(self.seeds[index], self.objects, self.named)


class PairDataModule(LightningDataModule):
    """Image-text pairs to explain: given one by one, in a file or folder, or composed scenes.

    Give either `image` and `text`, or `source`, or `scenes`; with none of them, four scenes are composed. Fit, test and
    predict get the same pairs, in order, as batches of type `list[Pair]`; the last batch may be smaller. All pairs are
    checked in `setup`, before anything is computed.

    Args:
        image: Path of an image, or several; a single one goes with every text.
        text: Caption, or several; a single one goes with every image.
        source: A CSV, TSV or JSONL file of pairs, or a folder of images with captions (metadata.csv, or cat.txt beside
            cat.jpg).
        image_column: Column of `source` with the image's path, relative to the file.
        text_column: Column of `source` with the caption.
        id_column: Column of `source` with the pair's id. Without a column "id", ids are made from the image names.
        scenes: So many composed scenes instead of files.
        scene_seed: Seed of the first scene; the following ones count up.
        scene_objects: Objects that each scene shows.
        scene_named: How many of them its caption names.
        batch_size: Pairs that are explained at once. Does not change the result.
        num_workers: Processes that read pairs ahead; 0 reads them in the main process.
        on_error: What a pair that cannot be read does to a prediction: "stop" it, or be "record"ed among the results.

    Attributes:
        skip: Ids of pairs that a prediction leaves out.

    Raises:
        ValueError: None or several kinds of source are given, or a number is too small.
    """

    def __init__(
        self,
        image: str | list[str] | None = None,
        text: str | list[str] | None = None,
        source: str | None = None,
        image_column: str = "image",
        text_column: str = "text",
        id_column: str = "id",
        scenes: int | None = None,
        scene_seed: int = 0,
        scene_objects: int = 3,
        scene_named: int = 1,
        batch_size: int = 8,
        num_workers: int = 0,
        on_error: Literal["record", "stop"] = "record",
    ) -> None:
        super().__init__()
        self.on_error = on_error
        self.skip: Container[str] = ()
        _check_choice(image, text, source, scenes)
        _at_least(1, batch_size=batch_size)
        _at_least(0, num_workers=num_workers)
        self.image, self.text, self.source = image, text, source
        self.columns = (image_column, text_column, id_column)
        self.scenes = 4 if image is None and source is None and scenes is None else scenes
        self.scene_options = (scene_seed, scene_objects, scene_named)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._pairs: list[PairReference] | SceneReferences | None = None

    @property
    def pairs(self) -> list[PairReference] | SceneReferences:
        """References to the pairs, in order.

        Raises:
            RuntimeError: `setup` was not called.
        """
        if self._pairs is None:
            raise RuntimeError("Expected `setup` to be called before the pairs are used. Remedy: data.setup('fit').")
        return self._pairs

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.pairs)

    @property
    def count(self) -> int | None:
        """The number of pairs of all processes, skipped ones included."""
        return len(self.pairs)

    def setup(self, stage: str) -> None:
        """Find the pairs and check all of them, once; the stage makes no difference.

        Raises:
            ValueError: The source or a pair cannot be read.
        """
        if self._pairs is None:
            self._pairs = self._find(check=stage != "predict" or self.on_error == "stop")

    def train_dataloader(self) -> DataLoader[Pair]:
        """Batches of type `list[Pair]`, in order; each pair is read once and kept, since every epoch asks for it."""
        return self._loader(keep=True)

    def test_dataloader(self) -> DataLoader[Pair]:
        """The same batches as for training."""
        return self._loader()

    def predict_dataloader(self) -> DataLoader[Pair | BadPair]:
        """Batches of type `list[Pair | BadPair]`: of the pairs that are not skipped, the share of this process."""
        rank, size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = [i for i in range(rank, len(self.pairs), size) if _id(self.pairs, i) not in self.skip]
        return DataLoader(
            _Share(self.pairs, mine, self.on_error == "record"),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=list,
        )

    def _find(self, check: bool = True) -> list[PairReference] | SceneReferences:
        if self.scenes is not None:
            return SceneReferences(self.scenes, *self.scene_options)
        if self.source is not None:
            references = read_source(self.source, *self.columns)
        else:
            assert self.image is not None and self.text is not None  # one of the three, says the constructor
            references = make_references(self.image, self.text)
        if check:
            check_all(references)
        return references

    def _loader(self, keep: bool = False) -> DataLoader[Pair]:
        return DataLoader(
            _Pairs(self.pairs, keep),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=list,
            persistent_workers=self.num_workers > 0,
        )


class _Pairs(Dataset[Pair]):
    """Reads a pair when it is asked for, in the process that asks, and keeps it if told to."""

    def __init__(self, references: list[PairReference] | SceneReferences, keep: bool) -> None:
        self.references = references
        self.kept: dict[int, Pair] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, index: int) -> Pair:
        if self.kept is None:
            return read_pair(self.references[index])
        if index not in self.kept:
            self.kept[index] = read_pair(self.references[index])
        return self.kept[index]


class _Share(Dataset[Pair | BadPair]):
    """The pairs of one process, those that cannot be read as bad ones if told to."""

    def __init__(self, references: list[PairReference] | SceneReferences, places: list[int], record: bool) -> None:
        self.references, self.places, self.record = references, places, record

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Pair | BadPair:
        reference = self.references[self.places[index]]
        try:
            return read_pair(reference)
        except ValueError as problem:
            if not self.record:
                raise
            return BadPair(reference.id, reference.text, str(reference.image), str(problem))


def _id(references: list[PairReference] | SceneReferences, index: int) -> str:
    if isinstance(references, SceneReferences):
        return f"scene-{references.seeds[index]:06d}"
    return references[index].id


def _check_choice(
    image: str | list[str] | None, text: str | list[str] | None, source: str | None, scenes: int | None
) -> None:
    """One way to give pairs, and that one completely."""
    if (image is None) != (text is None):
        given, missing = ("image", "text") if text is None else ("text", "image")
        raise ValueError(f"Expected `image` and `text` but got only `{given}`. Remedy: give `{missing}` as well.")
    kinds = {"image and text": image, "source": source, "scenes": scenes}
    given_kinds = [name for name, value in kinds.items() if value is not None]
    if len(given_kinds) > 1:
        raise ValueError(
            f"Expected one of image and text, source, or scenes but got {' together with '.join(given_kinds)}. "
            "Remedy: leave all but one out."
        )


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"Expected `{name}` to be at least {least} but got {value}. Remedy: raise it.")
