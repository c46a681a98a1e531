"""Every pair is read by exactly one process and worker; bad ones are recorded; skipped ones are not opened."""

from __future__ import annotations

import json
import os
import pickle
import threading
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from m2ib_lightning import load_backbone
from m2ib_lightning.data import PairDataModule, PairReference, PairSource, loading
from m2ib_lightning.data.asked import ask_all
from m2ib_lightning.data.ids import UNNAMED
from m2ib_lightning.data.images import fingerprint
from m2ib_lightning.data.loading import PINNING, KeptPairs, PairStream, Reader, ReadPairs, quiet_tokenizers
from m2ib_lightning.methods.baselines import CentrePrior
from m2ib_lightning.types import BadPair, Pair
from tests.methods.made import quiet_trainer

PICTURE = Image.new("RGB", (2, 2))


class Numbers(PairSource):
    """So many pairs of one picture; a worker can read its share alone if there are files of them."""

    def __init__(self, count: int, files: int = 1, texts: list[str] | None = None) -> None:
        self.numbers, self.files, self.texts = range(count), files, texts

    def references(self):
        for i in self.numbers:
            yield PairReference(f"n{i}", PICTURE, self.texts[i] if self.texts else f"number {i}")

    def part(self, index: int, count: int):
        if self.files < count:
            return None
        part = Numbers(0)
        part.numbers = self.numbers[index::count]
        return part


@pytest.mark.parametrize("files", [1, 6], ids=["picked", "in parts"])
@pytest.mark.parametrize(
    ("world", "workers", "count"),
    [*((world, 0, count) for world in (1, 2) for count in (0, 1, 5, 23)), (1, 2, 5), (3, 2, 23), (3, 2, 0)],
)
def test_each_pair_is_read_once_by_one_process_and_worker(files: int, world: int, workers: int, count: int):
    source, read = Numbers(count, files), []
    for rank in range(world):
        stream = PairStream(source, 2, rank, world, by_length=True)
        batches = list(DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=ask_all))
        assert all(1 <= len(batch) <= 2 for batch in batches)
        mine = [pair.id for batch in batches for pair in batch]
        if files == 1:
            assert sorted(mine) == sorted(f"n{i}" for i in range(rank, count, world))
        read += mine
    assert sorted(read) == sorted(f"n{i}" for i in range(count))


def test_positions_of_a_process_do_not_depend_on_what_is_skipped():
    streams = [PairStream(Numbers(10), 4, rank, 2, skip={"n0", "n1", "n4"}) for rank in (0, 1)]
    assert [[p.id for batch in stream for p in batch] for stream in streams] == [
        ["n2", "n6", "n8"],
        ["n3", "n5", "n7", "n9"],
    ]


def test_workers_keep_the_order_of_the_source_where_lengths_are_equal():
    source = Numbers(9)
    alone = [[p.id for p in batch] for batch in PairStream(source, 2)]
    loader = DataLoader(PairStream(source, 2), batch_size=None, num_workers=2, collate_fn=ask_all)
    assert [[p.id for p in batch] for batch in loader] == alone


def test_texts_of_similar_length_share_a_batch_and_one_batch_keeps_its_order():
    texts = ["a", "a long text", "b", "another one"]
    batches = list(PairStream(Numbers(4, texts=texts), 2, by_length=True))
    assert [[pair.text for pair in batch] for batch in batches] == [["a", "b"], ["a long text", "another one"]]
    (whole,) = PairStream(Numbers(4, texts=texts), 8, by_length=True)
    assert [pair.text for pair in whole] == texts
    assert [[pair.text for pair in batch] for batch in PairStream(Numbers(4, texts=texts), 2)] == [texts[:2], texts[2:]]


def test_the_window_is_bounded_and_nothing_is_read_far_ahead():
    class Endless(PairSource):
        given = 0

        def references(self):
            while True:
                self.given += 1
                yield PairReference(UNNAMED, PICTURE, "x")

    source = Endless()
    next(iter(PairStream(source, 2, by_length=True)))
    assert source.given == 32  # 16 batches of 2


def read(source: Path, workers: int = 0, **options) -> list[Pair | BadPair]:
    """All pairs in order."""
    data = PairDataModule(source=str(source), batch_size=8, num_workers=workers, **options)
    data.setup("predict")
    return [pair for batch in data.predict_dataloader() for pair in batch]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of every kind of bad pair among good ones."""
    for name in ("a", "b", "c"):
        Image.new("RGB", (3, 2)).save(tmp_path / f"{name}.png")
    Image.new("RGB", (60, 60), "red").save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    (tmp_path / "pairs.csv").write_text(
        "id,image,text\n1,a.png,one\n2,gone.png,x\n3,cut.jpg,x\n4,empty.png,x\n5,text.png,x\n6,nan.tif,x\n"
        "7,b.png,\n1,b.png,again\nx/y,b.png,unsafe\n8,,x\n9,c.png,nine\n"
    )
    return tmp_path / "pairs.csv"


REASONS = {
    "2": "gone.png', which does not exist",
    "3": "cut.jpg, broken or cut short",
    "4": "empty.png, which is empty",
    "5": "text.png, which is none",
    "6": "nan or infinity in .*nan.tif",
    "7": "an empty text",
    "1-pair-8": "distinct ids but got '1' again in line 9 of .*pairs.csv",
    "x-y-pair-9": "an id that can be a file name but got 'x/y' in line 10 of .*pairs.csv",
    "8": "'', which does not exist",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pairs_are_recorded_with_their_reasons_and_the_good_ones_read(table: Path, workers: int):
    data = PairDataModule(source=str(table), batch_size=3, num_workers=workers)
    data.setup("predict")
    pairs = {pair.id: pair for batch in data.predict_dataloader() for pair in batch}
    assert len(pairs) == data.count == len(data) == 11
    assert {name for name, pair in pairs.items() if isinstance(pair, Pair)} == {"1", "9"}
    for name, reason in REASONS.items():
        bad = pairs[name]
        assert isinstance(bad, BadPair)
        with pytest.raises(ValueError, match=rf"^Expected .*{reason}.* Remedy: .*$"):
            raise ValueError(bad.error)
    assert pairs["2"] == BadPair("2", "x", str(table.parent / "gone.png"), pairs["2"].error)


def test_stopping_at_a_bad_pair_names_it_before_anything_is_read(table: Path):
    text = table.read_text().replace("1,b.png,again\nx/y,b.png,unsafe\n", "")
    table.write_text(text)
    for stage, on_error in (("predict", "stop"), ("fit", "record"), ("test", "record")):
        with pytest.raises(ValueError, match=r"^Pair 2 of 9, '2': .*gone.png', which does not exist. Remedy: "):
            PairDataModule(source=str(table), on_error=on_error).setup(stage)
    with pytest.raises(ValueError, match=r"Expected `on_error` to be one of 'record', 'stop' but got 'pass'"):
        PairDataModule(on_error="pass")  # type: ignore[arg-type]


def test_a_source_that_cannot_count_stops_when_it_comes_to_the_bad_pair():
    data = PairDataModule(dataset=Numbers(2, texts=["a", ""]), batch_size=1, on_error="stop")
    data.setup("predict")
    batches = iter(data.predict_dataloader())
    assert next(batches)[0].id == "n0"
    with pytest.raises(ValueError, match="Pair 'n1': Expected a caption but got an empty text"):
        next(batches)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,caption\na.png,x\n", "a column 'text'"),
        ("image,text\na.png,x\nb.png,a cat, sitting\n", "line 3 of .*more cells"),
        ("image,text\n", "pairs in .* but got none"),
    ],
)
def test_what_is_wrong_with_a_table_as_a_whole_is_an_error_in_setup(table: Path, text: str, reason: str):
    table.write_text(text)
    with pytest.raises(ValueError, match=rf"^Expected .*{reason}.* Remedy: .*$"):
        PairDataModule(source=str(table)).setup("predict")


def test_images_of_skipped_pairs_and_of_others_are_not_opened(table: Path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "m2ib_lightning.data.pairs.load_image", lambda image, _: opened.append(Path(image).name) or PICTURE
    )
    data = PairDataModule(source=str(table), batch_size=2)
    data.setup("predict")
    assert opened == []
    data.skip = {"1", "3", "4"}
    read = [pair.id for batch in data.predict_dataloader() for pair in batch]
    assert opened == ["gone.png", "text.png", "nan.tif", "", "c.png"]
    assert not set(read) & data.skip


def test_a_caption_that_is_not_utf8_is_a_bad_pair_of_its_folder(tmp_path: Path):
    for name, text in (("a", b"a cat"), ("b", "a caf\u00e9".encode("latin-1"))):
        PICTURE.save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text)
    data = PairDataModule(source=str(tmp_path))
    data.setup("predict")
    good, bad = next(iter(data.predict_dataloader()))
    assert isinstance(good, Pair) and isinstance(bad, BadPair) and bad.id == "b"
    assert "text in UTF-8" in bad.error and "b.txt. Remedy: " in bad.error
    with pytest.raises(ValueError, match=r"text in UTF-8 .*b.txt. Remedy: "):
        PairDataModule(source=str(tmp_path)).setup("fit")


class Recorder(LightningModule):
    """Keeps the batches that a trainer gives it."""

    def predict_step(self, batch: list[Pair | BadPair], batch_idx: int) -> list[Pair | BadPair]:
        return batch


def test_the_process_of_the_trainer_says_which_pairs_are_read(monkeypatch):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False)
    data = PairDataModule(dataset=Numbers(5), batch_size=2)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    monkeypatch.setattr(type(trainer), "global_rank", 1)
    data.trainer = trainer
    data.setup("predict")
    assert [pair.id for batch in data.predict_dataloader() for pair in batch] == ["n1", "n3"]
    assert [pair.id for batch in data.test_dataloader() for pair in batch] == ["n1", "n3"]


def test_a_trainer_predicts_over_a_source_of_unknown_length():
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    batches = trainer.predict(Recorder(), datamodule=PairDataModule(dataset=Numbers(5), batch_size=2))
    assert [pair.id for batch in batches for pair in batch] == [f"n{i}" for i in range(5)]


def test_predictions_get_no_truth_and_tests_do():
    data = PairDataModule(scenes=1)
    data.setup("test")
    assert next(iter(data.predict_dataloader()))[0].truth.mask is None
    assert next(iter(data.test_dataloader()))[0].truth.mask.shape == (96, 96)


HALF = "\ud83d"
"""One of the two surrogates of a cat's face, as JSON can hold it."""


@pytest.mark.parametrize("workers", [0, 1])
def test_halves_of_characters_are_bad_pairs_that_can_be_stored(tmp_path: Path, workers: int):
    PICTURE.save(tmp_path / "a.png")
    rows = [{"image": "a.png", "text": f"number {i}"} for i in range(4)]
    rows[1]["text"] += HALF
    rows[2]["image"] = f"{HALF}.png"
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path / "pairs.jsonl", workers)
    assert [isinstance(pair, Pair) for pair in found] == [True, False, False, True]
    assert found[1].text == r"number 1\ud83d" and "half of a character in 'number 1\\ud83d'" in found[1].error
    assert found[2].source.endswith(r"\ud83d.png") and "a path in UTF-8 but got" in found[2].error
    (tmp_path / "pairs.jsonl").write_text(json.dumps(rows[0] | {"id": f"x{HALF}"}))
    (bad,) = read(tmp_path / "pairs.jsonl", workers)
    assert "an id that can be a file name" in bad.error
    "".join(found[1] + found[2]).encode()
    "".join(bad).encode()


def test_a_file_name_that_is_not_utf8_is_a_bad_pair(tmp_path: Path):
    for name in (b"caf\xe9", b"good"):
        PICTURE.save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", os.path.join(os.fsencode(tmp_path), name + b".png"))
        with open(os.path.join(os.fsencode(tmp_path), name + b".txt"), "w") as file:
            file.write("a cat")
    bad, good = read(tmp_path)
    assert isinstance(good, Pair) and "a path in UTF-8 but got" in bad.error and "rename the file" in bad.error
    "".join(bad).encode()


def test_a_caption_beyond_131072_characters_is_that_pairs_fault_alone(tmp_path: Path):
    PICTURE.save(tmp_path / "a.png")
    for length, fine in ((131_072, True), (131_073, False)):
        (tmp_path / "pairs.csv").write_text(f"image,text\na.png,one\na.png,{'x' * length}\na.png,three\n")
        found = read(tmp_path / "pairs.csv")
        assert [isinstance(pair, Pair) for pair in found] == [True, fine, True]
    assert "at most 131,072 characters but got 131,073" in found[1].error


def test_pictures_beyond_the_limit_of_the_data_module_are_bad_pairs(tmp_path: Path):
    for suffix in ("png", "jpg"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"a.{suffix}")
    (tmp_path / "pairs.csv").write_text("id,image,text\n1,a.png,x\n2,a.jpg,x\n")
    png, jpg = read(tmp_path / "pairs.csv", max_pixels=100)
    assert "at most 100 pixels but got 20 x 20" in png.error and jpg.image.size == (10, 10)
    with pytest.raises(ValueError, match="at most 100 pixels"):
        PairDataModule(source=str(tmp_path / "pairs.csv"), max_pixels=100).setup("fit")
    data = PairDataModule(image=str(tmp_path / "a.jpg"), text="x", max_pixels=100)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))[0].image.size == (10, 10)
    with pytest.raises(ValueError, match="`max_pixels` to be at least 1 but got 0"):
        PairDataModule(max_pixels=0)


def test_a_pair_that_was_read_has_the_fingerprint_of_its_file(tmp_path: Path):
    PICTURE.save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("image,text\na.png,x\n")
    (pair,) = read(tmp_path / "pairs.csv")
    assert pair.fingerprint == fingerprint(tmp_path / "a.png") != ""


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_asked_of_every_pair_is_asked_wherever_it_is_read(workers):
    asked = {}

    class Noting(CentrePrior):
        def attribute(self, batch):
            asked.update((pair.id, pair.asked.phrases) for pair in batch.pairs)
            return super().attribute(batch)

    data = PairDataModule(dataset=Numbers(2, texts=["a key", "b"]), num_workers=workers, phrases=["key"])
    (found,) = quiet_trainer().predict(Noting(load_backbone("embedded")), data)
    assert asked == {"n0": [(2, 5)], "n1": []} and [len(a.phrases) for a in found] == [1, 0]


def test_workers_preprocess_what_the_main_process_would_and_record_what_the_model_cannot_read(monkeypatch):
    backbone, parent, given = load_backbone("embedded"), os.getpid(), []
    read_pairs, texts = type(backbone).read_pairs, [*"abcd", "a key", *"fg"]

    def refusing(model, pairs):
        if (os.getpid() == parent) != main_process_reads:
            raise RuntimeError("in another process than expected")
        if any("key" in pair.text for pair in pairs):
            raise ValueError("Expected no key. Remedy: leave it out.")
        return read_pairs(model, pairs)

    class Noting(CentrePrior):
        def attribute(self, batch):
            given.append(batch)
            return super().attribute(batch)

    monkeypatch.setattr(type(backbone), "read_pairs", refusing)
    found = []
    for workers in (0, 2):
        main_process_reads = not workers
        data = PairDataModule(dataset=Numbers(7, texts=texts), batch_size=3, num_workers=workers)
        found.append(quiet_trainer().predict(Noting(backbone), data))
    here, there = (sorted((r for batch in results for r in batch), key=lambda r: r.id) for results in found)
    assert [r.id for r in here] == [r.id for r in there] == [f"n{i}" for i in range(7)]
    assert [r.error for r in here + there if isinstance(r, BadPair)] == ["Expected no key. Remedy: leave it out."] * 2
    read = [(pair.id, batch.pixel_values[i], batch.tokens[i]) for batch in given for i, pair in enumerate(batch.pairs)]
    ours, theirs = (sorted(some, key=itemgetter(0)) for some in (read[:6], read[6:]))
    for (name, pixels, tokens), other in zip(ours, theirs, strict=True):
        assert (name, tokens) == other[::2] and torch.equal(pixels, other[1])


def test_what_a_model_reads_of_a_batch_is_pinned_and_nothing_where_no_pair_could_be_read():
    bad = {"a": BadPair("a", "a cat", "", "gone")}
    read = ReadPairs([bad["a"]], SimpleNamespace(pin_memory=lambda: "pinned"), bad).pin_memory()
    assert read.inputs == "pinned" and list(read) == [bad["a"]] and read.bad == bad
    assert ReadPairs([bad["a"]], None, bad).pin_memory().inputs is None


class Halves(Numbers):
    """One whose parts are blocks of its pairs."""

    def part(self, index: int, count: int):
        if self.files < count:
            return None
        part, each = Halves(0), len(self.numbers) // count
        part.numbers = self.numbers[index * each : (index + 1) * each]
        return part


def test_a_process_reads_its_own_part_where_there_is_one_and_every_second_pair_else():
    def ids(files: int, rank: int, world: int) -> list[str]:
        return [pair.id for batch in PairStream(Halves(4, files), 3, rank, world) for pair in batch]

    assert [ids(2, rank, 2) for rank in (0, 1)] == [["n0", "n1"], ["n2", "n3"]]
    assert [ids(1, rank, 2) for rank in (0, 1)] == [["n0", "n2"], ["n1", "n3"]]
    assert ids(0, 0, 1) == ids(9, 0, 1) == ["n0", "n1", "n2", "n3"]


def test_a_worker_of_a_process_reads_the_part_of_both():
    source = Halves(8, 4)
    for rank, first in ((0, 0), (1, 4)):
        loader = DataLoader(PairStream(source, 9, rank, 2), batch_size=None, num_workers=2, collate_fn=ask_all)
        found = [[pair.id for pair in batch] for batch in loader]
        assert sorted(found) == [[f"n{first + i}", f"n{first + i + 1}"] for i in (0, 2)]


def test_pairs_are_read_alone_without_truth_in_order_and_bad_ones_recorded_unless_it_is_asked_otherwise():
    truth = SimpleNamespace(read=lambda *_: pytest.fail("read"))

    class Given(PairSource):
        def references(self):
            for i, text in enumerate(["a", "a long text", "b", "", "c"]):
                yield PairReference(f"n{i}", PICTURE, text, truth)

    batches = list(PairStream(Given(), 2))
    assert [[pair.id for pair in batch] for batch in batches] == [["n0", "n1"], ["n2", "n3"], ["n4"]]
    assert isinstance(batches[1][1], BadPair)
    with pytest.raises(ValueError, match=r"^Pair 'n3': Expected a caption but got an empty text"):
        list(PairStream(Given(), 2, record=False))


def test_a_kept_pair_is_read_once_without_its_truth_and_no_larger_than_asked(tmp_path: Path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg")
    truth = SimpleNamespace(read=lambda *_: pytest.fail("read"))
    kept = KeptPairs([PairReference(n, str(tmp_path / "a.jpg"), "x", truth) for n in "ab"], max_pixels=200)
    first = kept[1]
    (tmp_path / "a.jpg").unlink()
    assert len(kept) == 2 and kept[1] is first and first.id == "b" and first.image.size == (20, 10)
    with pytest.raises(ValueError, match="does not exist"):
        kept[0]


def test_what_a_model_reads_of_a_batch_is_brought_to_its_device_and_the_pairs_stay():
    bad = {"a": BadPair("a", "a cat", "", "gone")}
    asked = []
    inputs = SimpleNamespace(to=lambda device: asked.append(device) or "there")
    read = ReadPairs([bad["a"]], inputs, bad).to(torch.device("cpu"), non_blocking=True)
    assert (read.inputs, list(read), len(read), read.bad) == ("there", [bad["a"]], 1, bad)
    assert asked == [torch.device("cpu")] and ReadPairs([], None, {}).to(torch.device("cpu")).inputs is None


class Model:
    """Reads what is not odd, and notes what it is asked to read."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read_pairs(self, pairs: list[Pair]) -> list[str]:
        self.asked.append("".join(pair.id for pair in pairs))
        if any(pair.text == "odd" for pair in pairs):
            raise ValueError("Expected no odd text.")
        return [pair.id for pair in pairs]


def test_a_reader_reads_a_batch_at_once_and_pair_by_pair_where_one_cannot_be_read():
    a, b, odd = Pair("a", PICTURE, "x"), Pair("b", PICTURE, "a key"), Pair("o", PICTURE, "odd", "o.png")
    bad, model = BadPair("c", "", "", "gone"), Model()
    read = Reader(model, phrases=["key"])([a, bad, b])
    assert (read.inputs, read.bad, [pair.id for pair in read]) == (["a", "b"], {"c": bad}, ["a", "c", "b"])
    assert [pair.asked.phrases for pair in read if isinstance(pair, Pair)] == [[], [(2, 5)]] and model.asked == ["ab"]
    model.asked.clear()
    read = Reader(model)([a, odd, bad, b])
    assert read.inputs == ["a", "b"] and model.asked == ["aob", "a", "o", "b", "ab"]
    assert read.bad == {"c": bad, "o": BadPair("o", "odd", "o.png", "Expected no odd text.")}
    assert Reader(model)([odd]).inputs is None and Reader(model)([bad]).inputs is None
    with pytest.raises(ValueError, match="no odd text"):
        Reader(model, record=False)([a, odd])
    assert [pair.asked.phrases for pair in Reader(model)([a])] == [None]


def test_tokenizers_of_a_worker_are_quiet(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    quiet_tokenizers(3)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


@pytest.fixture
def read_by_a_worker():
    """A batch with a bad pair and a picture that is no RGB one, and the same as another process gets it."""
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (3 + i, 5, 3), np.uint8)) for i in range(2)]
    pairs = [Pair("a", pictures[0], "one"), BadPair("b", "two", "", "no"), Pair("c", pictures[1], "three")]
    pairs.append(Pair("d", Image.new("L", (2, 2), 7), "four"))
    inputs = load_backbone("embedded").read_pairs([pairs[2], pairs[0]])
    given = ReadPairs(pairs, inputs, {"b": pairs[1]})
    return given, pickle.loads(pickle.dumps(given))


def test_pictures_pass_from_process_to_process_as_they_are(read_by_a_worker):
    given, got = read_by_a_worker
    assert [pair.id for pair in got] == ["a", "b", "c", "d"] and got.bad == given.bad
    for one, other in zip(given, got, strict=True):
        if isinstance(one, Pair):
            assert one._replace(image=None) == other._replace(image=None)
            assert (one.image.size, one.image.mode) == (other.image.size, other.image.mode)
            np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
    assert [pair.image.mode for pair in given if isinstance(pair, Pair)] == ["RGB", "RGB", "L"]


def test_what_the_model_reads_passes_with_its_own_pairs_in_their_order(read_by_a_worker):
    given, got = read_by_a_worker
    assert got.inputs is not None and [pair.id for pair in got.inputs.pairs] == ["c", "a"]
    assert got.inputs.pairs[0] is got.pairs[2] and got.inputs.pairs[1] is got.pairs[0]
    assert torch.equal(got.inputs.pixel_values, given.inputs.pixel_values) and got.inputs.tokens == given.inputs.tokens
    assert pickle.loads(pickle.dumps(ReadPairs(given.pairs, None, {}))).inputs is None


def test_a_picture_is_not_decoded_before_somebody_looks(read_by_a_worker):
    def load(self):
        raise AssertionError("decoded")

    _, got = read_by_a_worker
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(got.pairs[0].image), "load", load)
        assert got.pairs[0].image.size == (5, 3) and got.to(torch.device("cpu")).pairs is got.pairs
        with pytest.raises(AssertionError, match="decoded"):
            got.pairs[0].image.getpixel((0, 0))


def test_batches_without_pictures_and_large_pictures_pass_too(monkeypatch):
    bad = BadPair("b", "two", "", "no")
    assert pickle.loads(pickle.dumps(ReadPairs([bad], None, {"b": bad}))).pairs == [bad]
    monkeypatch.setattr(loading, "SHARED_PIXELS", 4)
    pairs = [Pair("a", Image.new("RGB", (5, 1), "red"), "one"), Pair("b", Image.new("RGB", (4, 1), "blue"), "two")]
    got = pickle.loads(pickle.dumps(ReadPairs(pairs, None, {})))
    assert [pair.image.format for pair in got] == [None, "PPM"]
    assert [pair.image.getpixel((3, 0)) for pair in got] == [(255, 0, 0), (0, 0, 255)]


def test_memory_is_not_pinned_while_somebody_records_a_graph():
    bad, order = BadPair("b", "two", "", "no"), []
    read = ReadPairs([bad], SimpleNamespace(pin_memory=lambda: order.append("pinned")), {"b": bad})
    thread = threading.Thread(target=read.pin_memory)
    with PINNING:
        thread.start()
        thread.join(0.2)
        order.append("recorded")
    thread.join()
    assert order == ["recorded", "pinned"]
