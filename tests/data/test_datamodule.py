"""The data module serves checked pairs, in order, as lists, to every verb."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from m2ib_lightning.data import PairDataModule, PairReference, PairSource, Scenes, make_scene
from m2ib_lightning.data.datamodule import pair_data
from m2ib_lightning.data.loading import Reader
from m2ib_lightning.data.pairs import GivenPairs
from m2ib_lightning.data.tables import Table
from m2ib_lightning.types import Pair

LOADERS = ["train_dataloader", "test_dataloader", "predict_dataloader"]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Five images, each of another width."""
    names = [str(tmp_path / f"{index}.png") for index in range(5)]
    for width, name in enumerate(names, 1):
        Image.new("RGB", (width, 3)).save(name)
    return names


class Recorder(LightningModule):
    """Keeps the batches that a trainer gives it."""

    def predict_step(self, batch: list[Pair], batch_idx: int) -> list[Pair]:
        return batch


@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_every_stage_serves_the_same_pairs_in_order(paths: list[str], stage: str):
    data = PairDataModule(image=paths, text=list("abcde"), batch_size=2)
    data.setup(stage)
    data.setup("predict")
    assert len(data) == 5
    for loader in LOADERS:
        batches = list(getattr(data, loader)())
        assert [[pair.id for pair in batch] for batch in batches] == [["0", "1"], ["2", "3"], ["4"]]
        assert [pair.image.width for batch in batches for pair in batch] == [1, 2, 3, 4, 5]
        assert all(isinstance(batch, list) and isinstance(batch[0], Pair) for batch in batches)


def test_a_trainer_hands_over_the_pairs_untouched(paths: list[str]):
    data = PairDataModule(image=paths, text="a", batch_size=4)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    batches = trainer.predict(Recorder(), datamodule=data)
    pairs = [pair for batch in batches for pair in batch]
    assert [(pair.text, pair.source, pair.image.width) for pair in pairs] == [
        ("a", path, width) for width, path in enumerate(paths, 1)
    ]


def test_reading_in_other_processes_changes_nothing(paths: list[str]):
    data = PairDataModule(image=paths, text="a", batch_size=2, num_workers=1)
    data.setup("fit")
    assert [pair.source for batch in data.train_dataloader() for pair in batch] == paths


def test_a_single_image_or_text_goes_with_all_of_the_others(paths: list[str]):
    data = PairDataModule(image=paths[0], text=["a", "b"])
    data.setup("fit")
    assert [(p.id, p.image, p.text) for p in data.pairs] == [("0", paths[0], "a"), ("0-2", paths[0], "b")]


def test_a_source_is_read_with_the_columns_named(paths: list[str], tmp_path: Path):
    (tmp_path / "a.csv").write_text("key,path,caption\nx,0.png,zero\ny,1.png,one\n")
    data = PairDataModule(source=str(tmp_path / "a.csv"), image_column="path", text_column="caption", id_column="key")
    data.setup("fit")
    assert [(pair.id, pair.text) for pair in next(iter(data.train_dataloader()))] == [("x", "zero"), ("y", "one")]


def test_without_arguments_four_scenes_are_served():
    data = PairDataModule()
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert [pair.id for pair in batch] == [f"scene-00000{seed}" for seed in range(4)]
    assert {pair.source for pair in batch} == {""}


def test_scenes_are_those_of_their_seeds_with_their_truth_at_hand():
    data = PairDataModule(scenes=3, scene_seed=7, scene_objects=2, scene_named=2)
    data.setup("test")
    assert isinstance(data.pairs, Scenes)
    for index, pair in enumerate(next(iter(data.test_dataloader()))):
        expected = make_scene(7 + index, 2, 2)
        assert (pair.id, pair.text) == (f"scene-{7 + index:06d}", expected.text)
        np.testing.assert_array_equal(np.asarray(pair.image), np.asarray(expected.image))
        np.testing.assert_array_equal(data.pairs.scene(index).mask, expected.mask)


def test_scenes_are_made_only_when_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(
        "m2ib_lightning.data.composed.make_scene",
        lambda seed, *options, kind: made.append(seed) or make_scene(seed, *options, kind=kind),
    )
    data = PairDataModule(scenes=10**6)
    data.setup("fit")
    assert len(data) == 10**6 and len(made) <= 1
    assert data.pairs[10**6 - 1].id == "scene-999999"
    assert len(made) <= 2


def test_scenes_are_of_the_kind_asked_for():
    data = PairDataModule(scenes=1, scene_seed=7, scene_kind="relation")
    data.setup("test")
    (pair,) = next(iter(data.test_dataloader()))
    expected = make_scene(7, kind="relation")
    assert (pair.text, pair.truth.spans) == (expected.text, expected.spans)
    np.testing.assert_array_equal(pair.truth.mask, expected.mask)
    with pytest.raises(ValueError, match=r"but got 'dark'\. Remedy: "):
        PairDataModule(scenes=1, scene_kind="dark").setup("test")


def test_iterating_over_scenes_ends():
    assert [reference.id for reference in Scenes(2)] == ["scene-000000", "scene-000001"]


def test_setup_refuses_a_bad_pair_before_anything_is_read(paths: list[str]):
    data = PairDataModule(image=[paths[0], "gone.png"], text="a")
    with pytest.raises(ValueError, match=r"Pair 2 of 2, 'gone': .* 'gone.png', which does not exist. Remedy: "):
        data.setup("fit")
    with pytest.raises(ValueError, match="Pair 1 of 1, '0': Expected a caption"):
        PairDataModule(image=paths[0], text=" ").setup("fit")
    with pytest.raises(ValueError, match=r"got 5 images and 2 texts. Remedy: "):
        PairDataModule(image=paths, text=["a", "b"]).setup("fit")
    with pytest.raises(ValueError, match=r"nowhere.csv, which does not exist. Remedy: "):
        PairDataModule(source="nowhere.csv").setup("fit")


def test_pairs_before_setup_are_refused():
    for use in (len, lambda data: data.pairs, PairDataModule.train_dataloader):
        with pytest.raises(RuntimeError, match=r"Expected `setup` to be called .* Remedy: "):
            use(PairDataModule())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "a.png"}, "`image` and `text` but got only `image`"),
        ({"text": "a", "scenes": 2}, "`image` and `text` but got only `text`"),
        ({"image": "a.png", "text": "a", "scenes": 2}, "one of .* but got image and text together with scenes"),
        ({"source": "a.csv", "scenes": 2}, "one of .* but got source together with scenes"),
        ({"source": "a.csv", "dataset": Scenes(1)}, "one of .* but got source together with dataset"),
        ({"batch_size": 0}, "`batch_size` to be at least 1 but got 0"),
        ({"num_workers": -1}, "`num_workers` to be at least 0 but got -1"),
    ],
)
def test_the_constructor_refuses_what_cannot_be(options: dict, message: str):
    with pytest.raises(ValueError, match=rf"Expected {message}.* Remedy: "):
        PairDataModule(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": 0}, "`scenes` to be at least 1 but got 0"),
        ({"scenes": 2, "scene_seed": -1}, "`scene_seed` to be at least 0 but got -1"),
        ({"scene_named": 4}, "1 <= named <= objects .* but got named=4, objects=3"),
    ],
)
def test_impossible_scenes_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=rf"Expected {message}.* Remedy: "):
        PairDataModule(**options).setup("fit")


def test_the_command_line_explains_every_argument_and_reads_lists(capsys, paths: list[str]):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PairDataModule, "data")
    parser.print_help()
    help_text = " ".join(capsys.readouterr().out.split())
    assert "Caption, or several; a single one goes with every image." in help_text
    assert "Processes that read pairs ahead" in help_text
    given = parser.parse_args(["--data.image", paths[0], "--data.text", '["a cat: black", "a dog"]'])
    data = PairDataModule(**given.data.as_dict())
    data.setup("fit")
    assert [pair.text for pair in data.pairs] == ["a cat: black", "a dog"]


class Model:
    """One on a device of this kind."""

    def __init__(self, kind: str) -> None:
        self.device = SimpleNamespace(type=kind)


@pytest.mark.parametrize(
    ("processors", "device", "asked", "workers"),
    [
        (4, "cuda", None, 3), (16, "cuda", None, 15), (17, "cuda", None, 16), (64, "cuda", None, 16),
        (2, "cuda", None, 1), (1, "cuda", None, 0), (64, "cpu", None, 0), (64, None, None, 0), (64, "cuda", 0, 0),
        (1, "cuda", 2, 2), (64, "cpu", 2, 2),
    ],
)  # fmt: skip
def test_workers_preprocess_for_a_gpu_beside_the_processor_that_keeps_it_busy(
    monkeypatch, processors, device, asked, workers
):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(processors if process == 0 else 999)))
    data = PairDataModule(scenes=1, num_workers=asked, phrases=["cat"])
    data.setup("predict")
    data.backbone = Model(device) if device else None
    loader = data.predict_dataloader()
    assert loader.num_workers == workers and loader.pin_memory is (device == "cuda" and workers > 0)
    reads = isinstance(loader.collate_fn, Reader)
    assert reads is (device is not None and workers > 0)
    if reads:
        assert loader.collate_fn.backbone is data.backbone and loader.collate_fn.record
    asks = loader.collate_fn.phrases if reads else loader.collate_fn.keywords["phrases"]
    assert asks == ["cat"]
    test = data.test_dataloader()
    assert test.num_workers == (asked or 0) and not test.pin_memory and not isinstance(test.collate_fn, Reader)


def test_workers_that_are_not_forked_and_runs_that_stop_at_a_bad_pair_leave_the_model_alone(monkeypatch):
    stops = PairDataModule(scenes=1, num_workers=2, on_error="stop")
    elsewhere = PairDataModule(scenes=1, num_workers=2)
    for data in (stops, elsewhere):
        data.setup("predict")
        data.backbone = Model("cuda")
    assert not isinstance(stops.predict_dataloader().collate_fn, Reader)
    assert isinstance(elsewhere.predict_dataloader().collate_fn, Reader)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "spawn")
    assert not isinstance(elsewhere.predict_dataloader().collate_fn, Reader)


def test_a_batch_has_eight_pairs_and_workers_stay_for_all_epochs():
    data = PairDataModule(scenes=9, num_workers=None)
    data.setup("fit")
    loader = data.train_dataloader()
    assert [len(batch) for batch in loader] == [8, 1] and loader.num_workers == 0 and not loader.persistent_workers
    assert [len(batch) for batch in data.predict_dataloader()] == [8, 1]
    data = PairDataModule(scenes=1, batch_size=1, max_pixels=1, num_workers=1)
    data.setup("fit")
    assert data.train_dataloader().num_workers == 1 and data.train_dataloader().persistent_workers


class Kind(PairSource):
    """Two pairs, counted or not, whose images are in it or not; the second one cannot be read."""

    def __init__(self, counted: bool, holds: bool) -> None:
        self.counted, self.holds_images = counted, holds

    def references(self):
        yield PairReference("a", Image.new("L", (2, 2)), "a long caption")
        yield PairReference("b", "gone.png", "short")

    def count(self):
        return 2 if self.counted else None


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("on_error", ["record", "stop"])
@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_pairs_are_listed_and_checked_before_a_run_where_that_costs_little(stage, on_error, counted, holds):
    data = PairDataModule(dataset=Kind(counted, holds), on_error=on_error, batch_size=1)
    checked = {"fit": True, "test": not holds, "predict": on_error == "stop" and counted and not holds}[stage]
    if checked:
        with pytest.raises(ValueError, match="Pair 2 of 2, 'b': "):
            data.setup(stage)
        return
    data.setup(stage)
    assert data.count == (2 if counted else None) and len(data) == 2 and len(data.pairs) == 2
    assert list(data.listed_ids()) == ([] if holds else ["a", "b"])
    if stage == "test":
        with pytest.raises(ValueError, match="Pair 'b': "):
            list(data.test_dataloader())
    elif on_error == "record":  # the shorter one comes first where a window holds both
        data.batch_size = 2
        assert [pair.id for batch in data.predict_dataloader() for pair in batch] == ["a", "b"]


def test_a_prediction_puts_texts_of_one_length_together_and_a_test_does_not():
    texts = ["a", "a long caption", "b", "another caption"]
    data = PairDataModule(image=[Image.new("L", (2, 2))] * 4, text=texts, batch_size=2)
    data.setup("predict")
    found = [
        [[pair.text for pair in batch] for batch in loader]
        for loader in (data.predict_dataloader(), data.test_dataloader())
    ]
    assert found == [[texts[::2], texts[1::2]], [texts[:2], texts[2:]]]


def test_each_way_to_give_pairs_is_opened_as_what_it_is(paths: list[str], tmp_path: Path):
    (tmp_path / "a.csv").write_text("image,text\n0.png,zero\n")
    source = Scenes(3)
    assert PairDataModule(dataset=source).open() is source and PairDataModule(dataset=source).scenes is None
    assert isinstance(PairDataModule(source=str(tmp_path / "a.csv")).open(), Table)
    given = PairDataModule(image=paths, text="x")
    assert isinstance(given.open(), GivenPairs) and given.open().count() == 5 and given.scenes is None
    scenes = PairDataModule(scenes=2, scene_kind="small").open()
    assert (len(scenes), scenes.seeds.start, scenes.kind) == (2, 0, "small") and PairDataModule().scenes == 4
    with pytest.raises(ValueError, match=r"but got source together with dataset together with scenes. Remedy: leave"):
        PairDataModule(source="a.csv", dataset=source, scenes=1)


def test_the_pairs_of_a_run_are_those_of_its_data_module_if_it_has_one_of_ours():
    data = PairDataModule(scenes=1)
    assert pair_data(SimpleNamespace(datamodule=data)) is data
    assert pair_data(SimpleNamespace(datamodule=None)) is pair_data(SimpleNamespace(datamodule=object())) is None
