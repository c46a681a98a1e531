"""Batches of pairs, read from a source as they are asked for and shared among processes without copies."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data.asked import Wanted, ask_all
from m2ib_lightning.data.composed import Scenes
from m2ib_lightning.data.images import MAX_PIXELS
from m2ib_lightning.data.pairs import PairSource, Reference, read_or_record, read_pair
from m2ib_lightning.types import BadPair, Pair, PairBatch

PINNING = threading.Lock()
"""Held while memory is pinned for a GPU, and by who records a CUDA graph: doing both at once was seen to crash."""

SHARED_PIXELS = 2**22
"""The largest picture that passes between processes in shared memory, of which there is not as much as of other."""

WINDOW = 16
"""Batches among which texts of one length are put together."""


class PairStream(IterableDataset[list[Pair | BadPair]]):
    """Batches of the pairs of one process.

    Pair i of the source belongs to process i modulo `world`; where processes read ahead, blocks of `batch_size` of its
    pairs go to them in turn. A source that can be read in parts is split by them instead. Either way each pair is read
    by exactly one, and none waits for another.

    Args:
        source: Of the pairs.
        batch_size: The most pairs in a batch.
        rank: Of this process among `world`.
        world: How many processes share the pairs.
        skip: Ids that are passed over, their images not opened.
        record: Whether a pair that cannot be read comes as a `BadPair`; else it raises.
        truth: Whether the pairs' truth is read.
        by_length: Whether texts of similar length are put together, within 16 batches; the padding of a batch is read
            by the model like a text of that length.
        max_pixels: See `load_image`.
    """

    def __init__(
        self,
        source: PairSource,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        skip: Container[str] = (),
        record: bool = True,
        truth: bool = False,
        by_length: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.source, self.batch_size, self.rank, self.world = source, batch_size, rank, world
        self.skip, self.record, self.truth, self.by_length = skip, record, truth, by_length
        self.max_pixels = max_pixels

    def __iter__(self) -> Iterator[list[Pair | BadPair]]:
        """The batches.

        Raises:
            ValueError: Something is wrong with the source as a whole, or with a pair and pairs are not recorded.
        """
        wanted = (pair for pair in self._own() if pair.id not in self.skip)
        while window := list(islice(wanted, WINDOW * self.batch_size if self.by_length else self.batch_size)):
            yield from (self._read(batch) for batch in _batches(window, self.batch_size))

    def _own(self) -> Iterator[Reference | BadPair]:
        """The references of this process and, under a DataLoader, of this worker of it."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        part = self.source.part(self.rank * workers + worker, self.world * workers)
        if part is not None and self.world * workers > 1:
            return iter(part)
        own = islice(iter(self.source), self.rank, None, self.world)
        return (pair for i, pair in enumerate(own) if i // self.batch_size % workers == worker)

    def _read(self, batch: Iterable[Reference | BadPair]) -> list[Pair | BadPair]:
        pairs = [read_or_record(pair, self.truth, self.max_pixels) for pair in batch]
        bad = next((pair for pair in pairs if isinstance(pair, BadPair)), None)
        if bad is not None and not self.record:
            raise ValueError(f"Pair {bad.id!r}: {bad.error}")
        return pairs


def _batches(window: Sequence[Reference | BadPair], size: int) -> list[list[Reference | BadPair]]:
    """Batches of texts of similar length, each in the order of the source, and the batches by their first pair.

    Length is in characters: tokens are the model's affair.
    """
    by_length = sorted(range(len(window)), key=lambda i: len(str(window[i].text)))
    chosen = sorted(sorted(by_length[start : start + size]) for start in range(0, len(window), size))
    return [[window[i] for i in batch] for batch in chosen]


class KeptPairs(Dataset[Pair]):
    """The pairs of a list, each read once, in the process that asks first, and kept."""

    def __init__(self, references: Sequence[Reference] | Scenes, max_pixels: int = MAX_PIXELS) -> None:
        self.references, self.max_pixels = references, max_pixels
        self.kept: dict[int, Pair] = {}

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, index: int) -> Pair:
        if index not in self.kept:
            self.kept[index] = read_pair(self.references[index], False, self.max_pixels)
        return self.kept[index]


class ReadPairs:
    """A batch of pairs with what a model reads of them; it is gone through as their list is.

    Args:
        pairs: The pairs of the batch, in order.
        inputs: What the model reads of those that it can read, None if there are none.
        bad: The other pairs, by their ids.
    """

    def __init__(self, pairs: Sequence[Pair | BadPair], inputs: PairBatch | None, bad: dict[str, BadPair]) -> None:
        self.pairs, self.inputs, self.bad = pairs, inputs, bad

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair | BadPair]:
        return iter(self.pairs)

    def to(self, device: torch.device, **_: bool) -> ReadPairs:
        """The batch with what the model reads on a device."""
        return ReadPairs(self.pairs, self.inputs and self.inputs.to(device), self.bad)

    def pin_memory(self) -> ReadPairs:
        """The batch with what the model reads in memory that a GPU reads by itself; a `DataLoader`'s thread asks."""
        with PINNING:
            return ReadPairs(self.pairs, self.inputs and self.inputs.pin_memory(), self.bad)

    def __getstate__(self) -> dict[str, Any]:
        """What goes from one process to another, the pictures as files in one tensor, which is shared and not copied.

        A picture, which is larger than what the model reads of it and which most runs do not look at, is then decoded
        where it is looked at.
        """
        pairs: list[Any] = list(self.pairs)
        files = [_as_file(pair) for pair in pairs]
        if not any(files):
            return self.__dict__
        places = {id(pair): place for place, pair in enumerate(pairs)}
        return {
            "pairs": [pair._replace(image=None) if file else pair for pair, file in zip(pairs, files, strict=True)],
            "inputs": self.inputs and self.inputs._replace(pairs=()),
            "bad": self.bad,
            "rows": [places[id(pair)] for pair in self.inputs.pairs] if self.inputs else [],
            "lengths": [len(file) for file in files],
            "files": torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what another process has sent."""
        if "files" in state:
            lengths, rows = state.pop("lengths"), state.pop("rows")
            files = zip(state["pairs"], state.pop("files").split(lengths), strict=True)
            state["pairs"] = [pair._replace(image=_opened(file)) if len(file) else pair for pair, file in files]
            if state["inputs"]:
                state["inputs"] = state["inputs"]._replace(pairs=tuple(state["pairs"][row] for row in rows))
        self.__dict__.update(state)


def _as_file(pair: Pair | BadPair) -> bytes:
    """The picture of a pair as a portable pixmap, which is its header and its pixels; empty where it cannot be one."""
    image = pair.image if isinstance(pair, Pair) else None
    if image is None or image.mode != "RGB" or image.width * image.height > SHARED_PIXELS:
        return b""
    return f"P6 {image.width} {image.height} 255\n".encode() + image.tobytes()


def _opened(file: Tensor) -> Image.Image:
    """The picture of such a file, which is decoded when it is first looked at."""
    return Image.open(io.BytesIO(file.numpy().data), formats=["PPM"])


class Reader:
    """Preprocesses batches of pairs for a model, in whatever process it is called.

    Args:
        backbone: The model that the pairs are read for.
        record: Whether a pair that the model cannot read is a bad one; else it raises.
        phrases: Asked of every pair, see `ask_all`.
    """

    def __init__(self, backbone: Backbone, record: bool = True, phrases: Wanted = None) -> None:
        self.backbone, self.record, self.phrases = backbone, record, phrases

    def __call__(self, pairs: Sequence[Pair | BadPair]) -> ReadPairs:
        """The batch as the model reads it, in the processor's memory.

        Raises:
            ValueError: The model cannot read a pair and pairs are not recorded.
        """
        pairs = ask_all(pairs, self.phrases)
        bad = {pair.id: pair for pair in pairs if isinstance(pair, BadPair)}
        good = [pair for pair in pairs if isinstance(pair, Pair)]
        try:
            return ReadPairs(pairs, self.backbone.read_pairs(good) if good else None, bad)
        except ValueError:
            if not self.record:
                raise
        readable = []
        for pair in good:
            try:
                self.backbone.read_pairs([pair])
                readable.append(pair)
            except ValueError as problem:
                bad[pair.id] = BadPair(pair.id, pair.text, pair.source, str(problem))
        return ReadPairs(pairs, self.backbone.read_pairs(readable) if readable else None, bad)


def quiet_tokenizers(worker: int) -> None:
    """Keep a tokenizer that ran before its process was forked from warning that it runs in one thread now."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
