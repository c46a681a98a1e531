"""Pairs for the trainer: from the command line, from files, or composed scenes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least, check_choice
from m2ib_lightning.data.asked import ask_all
from m2ib_lightning.data.changes import changed_pairs
from m2ib_lightning.data.columns import Columns
from m2ib_lightning.data.composed import Scenes
from m2ib_lightning.data.images import MAX_PIXELS
from m2ib_lightning.data.loading import KeptPairs, PairStream, Reader, quiet_tokenizers
from m2ib_lightning.data.pairs import GivenPairs, PairSource, Reference, check_all, list_pairs
from m2ib_lightning.data.scene_kinds import Kind
from m2ib_lightning.data.sources import open_source


class PairDataModule(LightningDataModule):
    """Image-text pairs to explain: given one by one, in a file or folder, or composed scenes.

    Give either `image` and `text`, or `source`, `dataset` or `scenes`; with none of them, four scenes are composed.
    Every verb gets the same pairs as batches of type `list[Pair]`; the last batch may be smaller.

    `fit` and `test` list all pairs and check them in `setup`, before anything is computed, and stop at a bad one
    (`test` of a data set that holds its images when it comes to it).
    `predict` reads pairs as they are needed, so that their number does not matter; `setup` reads tables through, images
    unopened, and refuses what is wrong with a source as a whole. Texts of similar length are put into one batch there.
    `test` and `predict` share pairs among the processes of the trainer without copies or padding.

    Args:
        image: Path of an image, or several; a single one goes with every text.
        text: Caption, or several; a single one goes with every image.
        source: A CSV, TSV, JSONL or Parquet file, tar shards ("shards/*.tar"), a folder of images with captions
            (metadata.csv, or cat.txt beside cat.jpg), or "hf:NAME" of the hub.
        dataset: A class that reads a format of its own: COCO, Flickr30kEntities, ConceptualCaptions, MSCXR,
            HuggingFace, or a `PairSource` of yours.
        image_column: Column of `source` with the image's path, relative to the file, or the image itself.
        text_column: Column of `source` with the caption.
        id_column: Column of `source` with the pair's id. Without a column "id", ids are made from the image names.
        boxes_column: Column with boxes of what the text names, [[left, top, right, bottom], ...] in pixels of the image
            file. The columns of ground truth are read by `test` and need not exist if they have the default names.
        mask_column: Column with the path of a mask, not 0 where the text names something.
        spans_column: Column with [[start, end], ...], the characters of the text that name what is shown.
        phrases_column: Column with what to find in the picture: "auto", phrases of the text split by semicolons, or a
            list of these or of [start, end] characters. It need not exist if it has the default name.
        against_column: Column with a caption, or the bytes of a picture, that the pair is explained against: why this
            one and not that one. The same.
        phrases: What to find in the pictures of pairs whose cells do not say so: "auto", the words that carry most of a
            text; "words", each; phrases, of which each pair is asked for those that its text has; or, for `test`,
            "truth", the phrases that ground truth knows, and words for the regions that they name.
        scenes: So many composed scenes instead of files.
        scene_seed: Seed of the first scene; the following ones count up.
        scene_objects: Objects that each scene shows; 3 by default, of the kind "two_of_four" 4.
        scene_named: How many of them its caption names; 1 by default, of the kinds "two_of_four" and "relation" 2.
        scene_kind: What the scenes are like: plain, two_of_four, twice (the named object is there twice), small,
            clutter (behind the objects), relation ("a crab left of a strawberry"), attribute ("a red crab", and a blue
            one is there too), or hard (all of it and more, see `hard_scenes`).
        batch_size: Pairs that are explained at once. Does not change the result.
        num_workers: Processes that read pairs ahead, and preprocess them for `predict`; 0 leaves that to the main one.
            By default 0, and for `predict` on a GPU up to 16.
        on_error: Whether `predict` records a pair that cannot be read (a `BadPair` in its batch) and goes on, or stops.
        max_pixels: Image files of more are reduced while they are read where their format allows it (JPEG); others are
            bad pairs.

    Attributes:
        backbone: The model that workers preprocess pairs for; a method sets it under a Trainer.
        skip: Ids that `predict` and `test` pass over; set it before the loader is asked for.

    Raises:
        ValueError: None or several kinds of source are given, or a number is too small.
    """

    def __init__(
        self,
        image: str | list[str] | None = None,
        text: str | list[str] | None = None,
        source: str | None = None,
        dataset: PairSource | None = None,
        image_column: str = "image",
        text_column: str = "text",
        id_column: str = "id",
        boxes_column: str = "boxes",
        mask_column: str = "mask",
        spans_column: str = "spans",
        phrases_column: str = "phrases",
        against_column: str = "against",
        phrases: Literal["auto", "words", "truth"] | list[str] | None = None,
        scenes: int | None = None,
        scene_seed: int = 0,
        scene_objects: int | None = None,
        scene_named: int | None = None,
        scene_kind: Kind = "plain",
        batch_size: int = 8,
        num_workers: int | None = None,
        on_error: Literal["record", "stop"] = "record",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__()
        _check_choice(image=image, text=text, source=source, dataset=dataset, scenes=scenes)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("num_workers", num_workers or 0, 0)
        check_at_least("max_pixels", max_pixels, 1)
        check_choice("on_error", on_error, ("record", "stop"))
        self.image, self.text, self.source, self.dataset = image, text, source, dataset
        self.columns = Columns(
            image_column,
            text_column,
            id_column,
            boxes_column,
            mask_column,
            spans_column,
            phrases_column,
            against_column,
        )
        self.phrases = phrases
        self.scenes = 4 if image is None and source is None and dataset is None and scenes is None else scenes
        self.scene_options = (scene_seed, scene_objects, scene_named, scene_kind)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.on_error: Literal["record", "stop"] = on_error
        self.max_pixels = max_pixels
        self.backbone: Backbone | None = None
        self.skip: Collection[str] = frozenset()
        self._source: PairSource | None = None
        self._pairs: Sequence[Reference] | Scenes | None = None
        self._count: int | None = None

    @property
    def pairs(self) -> Sequence[Reference] | Scenes:
        """References to the pairs, in order; listed when first asked for, in memory.

        Raises:
            RuntimeError: `setup` was not called.
            ValueError: A pair has an id that cannot be.
        """
        if self._pairs is None:
            source = self._ready()
            self._pairs = source if isinstance(source, Scenes) else list_pairs(source)
        return self._pairs

    def listed_ids(self) -> Sequence[str]:
        """The ids of all pairs in the order of the source, bad ones too; empty where only opening images would tell.

        Raises:
            RuntimeError: `setup` was not called.
        """
        source = self._ready()
        return () if source.holds_images else [pair.id for pair in source]

    @property
    def count(self) -> int | None:
        """The number of pairs of all processes, skipped ones included; None where only reading them all would tell.

        Raises:
            RuntimeError: `setup` was not called.
        """
        self._ready()
        return self._count

    def __len__(self) -> int:
        """The number of pairs; a source that does not know is read through."""
        count = self.count
        return len(self.pairs) if count is None else count

    def changed(self, before: Mapping[str, tuple[str, str]]) -> dict[str, str]:
        """Which pairs are no longer what they were; see `changed_pairs`.

        Raises:
            RuntimeError: `setup` was not called.
        """
        return changed_pairs(self._ready(), before)

    def setup(self, stage: str) -> None:
        """Find the pairs; for `fit` and `test`, and for `predict` that stops at a bad pair, check all of them.

        What has no count, or holds its images, is checked for `fit` alone: else a bad pair stops when it is read.

        Raises:
            ValueError: The source as a whole cannot be read, or a pair that must be readable cannot.
        """
        if self._source is None:
            source = self.open()
            self._count, self._source = source.count(), source
        streamed = stage == "predict" and (self.on_error == "record" or self._count is None)
        streamed = streamed or (stage != "fit" and self._source.holds_images)
        if self._pairs is None and not streamed:
            if not isinstance(self.pairs, Scenes):
                check_all(self.pairs, self.max_pixels)
            self._count = len(self.pairs)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of type `list[Pair]`, in order; each pair is read once and kept, since every epoch asks for it."""
        return DataLoader(
            KeptPairs(self.pairs, self.max_pixels),
            batch_size=self.batch_size,
            num_workers=self.num_workers or 0,
            collate_fn=partial(ask_all, phrases=self.phrases),
            persistent_workers=bool(self.num_workers),
        )

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of type `list[Pair]` with their truth, in order."""
        return self._stream(record=False, truth=True, skip=self.skip)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of pairs and bad pairs, without truth, texts of similar length together.

        Workers preprocess them for the model (`ReadPairs`); without workers they are of type `list[Pair | BadPair]`.
        """
        record = self.on_error == "record"
        return self._stream(record, skip=self.skip, by_length=True, backbone=self._model() if record else None)

    def _model(self) -> Backbone | None:
        """The model that the pairs are for, where workers are forked: elsewhere it would have to be sent to each."""
        return self.backbone if multiprocessing.get_start_method() == "fork" else None

    def _stream(self, record: bool, backbone: Backbone | None = None, **options: Any) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        stream = PairStream(
            self._ready(), self.batch_size, rank, world, record=record, max_pixels=self.max_pixels, **options
        )
        on_gpu = backbone is not None and backbone.device.type == "cuda"
        workers = self.num_workers if self.num_workers is not None else _spare_processors() if on_gpu else 0
        ask = partial(ask_all, phrases=self.phrases)
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            collate_fn=Reader(backbone, phrases=self.phrases) if backbone is not None and workers else ask,
            worker_init_fn=quiet_tokenizers,
            pin_memory=on_gpu and workers > 0,
        )

    def _ready(self) -> PairSource:
        if self._source is None:
            raise RuntimeError("Expected `setup` to be called before the pairs are used. Remedy: data.setup('fit').")
        return self._source

    def open(self) -> PairSource:
        """The source that the arguments say, none of its pairs read.

        Raises:
            ValueError: There is nothing of that name, or it is of no known kind.
        """
        if self.scenes is not None:
            return Scenes(self.scenes, *self.scene_options)
        if self.dataset is not None:
            return self.dataset
        if self.source is not None:
            return open_source(self.source, self.columns)
        assert self.image is not None and self.text is not None  # one of the three, says the constructor
        return GivenPairs(self.image, self.text)


def pair_data(trainer: Trainer) -> PairDataModule | None:
    """The pairs of a run, None where the user passed loaders or a data module of another kind."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return data if isinstance(data, PairDataModule) else None


def _spare_processors() -> int:
    """Up to 16 beside the one that keeps the GPU busy: a pair takes one of them 10 ms, and the GPU below 1."""
    return min(16, len(os.sched_getaffinity(0)) - 1)


def _check_choice(**arguments: object) -> None:
    """One way to give pairs, and that one completely."""
    given = [name for name, value in arguments.items() if value is not None]
    for one, other in (("image", "text"), ("text", "image")):
        if one in given and other not in given:
            raise ValueError(f"Expected `image` and `text` but got only `{one}`. Remedy: give `{other}` as well.")
    ways = ["image and text" if name == "image" else name for name in given if name != "text"]
    if len(ways) > 1:
        raise ValueError(
            "Expected one of image and text, source, dataset, or scenes but got "
            f"{' together with '.join(ways)}. Remedy: leave all but one out."
        )
