"""One fit of two scenes in four steps, watched at every second one, with each kind of logger and with none."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from m2ib_lightning import AttributionStore
from m2ib_lightning.callbacks import MaskLogger, mask_logger
from m2ib_lightning.callbacks.mask_sinks import COLUMNS, MaskSink
from m2ib_lightning.callbacks.watched import Histogram, Watched, mask_histograms
from m2ib_lightning.cli import main
from m2ib_lightning.data import PairDataModule, make_scene
from m2ib_lightning.methods import M2IB
from m2ib_lightning.report.mask_state import FrameScale, MaskState
from m2ib_lightning.types import Pair
from tests.callbacks.offline_run import OfflineRun, read_run
from tests.made import attribution

PAIRS = ["scene-000000", "scene-000001"]
SCALARS = {"loss/total", "image/compression", "image/relevance", "text/compression", "text/relevance"}


def watch(folder: Path, *arguments: str) -> Path:
    """`m2ib fit` with the callback; what it wrote is in the folder."""
    main(
        [
            "fit", "--data.scenes=2", "--model.steps=4", "--model.noise_samples=2", f"--output={folder}",
            "--trainer.enable_progress_bar=false", "--pictures=false", "--trainer.callbacks=MaskLogger",
            "--trainer.callbacks.every_n_steps=2", *arguments,
        ]
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def wandb_folder(tmp_path_factory) -> Path:
    return watch(tmp_path_factory.mktemp("wandb"), "--trainer.logger=WandbLogger")


@pytest.fixture(scope="module")
def run(wandb_folder) -> OfflineRun:
    return read_run(wandb_folder)


@pytest.mark.slow
def test_a_wandb_run_holds_the_resolved_configuration(run):
    assert run.config["model"]["init_args"]["noise_samples"] == 2
    assert run.config["data"]["scenes"] == 2
    assert run.config["trainer"]["max_epochs"] == 4


def test_a_wandb_run_holds_the_scalars_of_every_step(run):
    rows = [row for row in run.rows if "loss/total" in row]
    assert len(rows) == 4 and all(row.keys() >= SCALARS for row in rows)
    steps = [row["trainer/global_step"] for row in rows]
    assert steps == sorted(set(steps))


def test_a_wandb_run_holds_the_pictures_of_every_second_step_beside_its_scalars(run):
    for pair in PAIRS:
        rows = [row for row in run.rows if f"masks/{pair}" in row]
        assert [row["_step"] for row in rows] == [1, 3]
        for row, step in zip(rows, (2, 4), strict=True):
            picture = row[f"masks/{pair}"]
            assert row.keys() >= SCALARS
            assert picture["caption"].startswith(f"{pair} · step {step} · loss ")
            with Image.open(run.files / picture["path"]) as image:
                assert image.width == picture["width"] == 496
            words = (run.files / row[f"words/{pair}"]["path"]).read_text()
            assert picture["caption"] in words and "nats per word" in words
            for modality in ("image", "text"):
                assert sum(row[f"lambda_/{pair}/{modality}"]["values"]) > 0


def test_a_picture_names_the_loss_of_its_own_step(run, wandb_folder):
    for a in AttributionStore(wandb_folder / "attributions"):
        losses = a.history["loss/total"]
        captions = [row[f"masks/{a.id}"]["caption"] for row in run.rows if f"masks/{a.id}" in row]
        assert captions == [f"{a.id} · step {step} · loss {losses[step - 1]:.3f}" for step in (2, 4)]
        assert len(set(losses)) == 4


def test_a_wandb_run_ends_with_a_video_per_pair_and_a_table(run):
    (row,) = [row for row in run.rows if "pairs" in row]
    for pair in PAIRS:
        with Image.open(run.files / row[f"animation/{pair}"]["path"]) as video:
            assert (video.format, video.n_frames) == ("GIF", 3)
    table = json.loads((run.files / row["pairs"]["path"]).read_text())
    assert {"image", "overlay", "pair", "text", "words", "similarity", "stop_reason", "verdict"} <= set(
        table["columns"]
    )
    assert [cells[table["columns"].index("pair")] for cells in table["data"]] == PAIRS


def test_a_wandb_run_counts_the_verdicts_of_all_pairs(run, wandb_folder):
    counted = {name: value for row in run.rows for name, value in row.items() if name.startswith("verdict/")}
    verdicts = AttributionStore(wandb_folder / "attributions").verdicts()
    assert counted == {f"verdict/{verdict}": count for verdict, count in verdicts.items()}
    assert sum(counted.values()) == 2


def test_local_files_are_complete_beside_wandb(wandb_folder):
    assert_complete(wandb_folder)
    assert len(AttributionStore(wandb_folder / "attributions")) == 2


def assert_complete(folder: Path) -> None:
    masks = folder / "masks"
    for pair in PAIRS:
        assert sorted(p.name for p in (masks / pair).glob("step-*")) == [f"step-000{i}.png" for i in (0, 2, 4)]
        with Image.open(masks / f"{pair}.gif") as animation:
            assert animation.n_frames == 3
    with (masks / "words.csv").open() as file:
        words = list(csv.DictReader(file))
    assert {(w["pair"], w["step"]) for w in words} == {(pair, step) for pair in PAIRS for step in ("2", "4")}
    with (masks / "histograms.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 2 * 2
    with (masks / "pairs.csv").open() as file:
        pairs = {row["pair"]: row for row in csv.DictReader(file)}
    for a in AttributionStore(folder / "attributions"):
        row = pairs[a.id]
        assert float(row["similarity"]) == pytest.approx(a.score)
        assert float(row["image_similarity"]) == pytest.approx(a.image_score)
        assert float(row["text_compression"]) == pytest.approx(a.history["text/compression"][-1])
        assert (row["text"], row["steps"], row["stop_reason"]) == (a.text, str(a.steps), a.stop_reason)
        assert row["verdict"] == a.verdict and (masks / a.id / "overlay.png").is_file()


def test_masks_that_are_all_open_or_all_closed_lie_in_the_last_and_the_first_bucket():
    method = M2IB(modalities=["text"])
    scene = make_scene(0)
    fit = method.new_fit(method.prepare().preprocess_pairs([Pair("a", scene.image, scene.text)]))
    for alpha, place in ((100.0, -1), (-100.0, 0), (0.0, 16)):
        fit.bottleneck("text").alpha.data.fill_(alpha)
        (found,) = mask_histograms(Watched(fit, 0)).values()
        assert len(found.counts) == 32 and found.counts[place] == sum(found.counts) > 0


def test_a_fit_without_a_logger_leaves_everything_in_the_folder(tmp_path):
    assert_complete(watch(tmp_path))


def test_a_csv_logger_gets_the_scalars_and_the_folder_the_rest(tmp_path):
    assert_complete(watch(tmp_path, "--trainer.logger=CSVLogger"))
    (metrics,) = tmp_path.glob("lightning_logs/version_0/metrics.csv")
    with metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss/total"]]
    assert len(rows) == 4 and all(row[name] for row in rows for name in SCALARS)


@pytest.mark.slow
def test_tensorboard_gets_scalars_pictures_words_histograms_and_moving_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert_complete(watch(tmp_path, "--trainer.logger=TensorBoardLogger"))
    log = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"), {"images": 0, "histograms": 0, "tensors": 0})
    log.Reload()
    tags = log.Tags()
    assert len(log.Scalars("loss/total")) == 4 and set(tags["scalars"]) >= SCALARS
    for pair in PAIRS:
        pictures = log.Images(f"masks/{pair}")
        assert [p.step for p in pictures] == [2, 4]
        assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
        assert log.Images(f"animation/{pair}")[0].encoded_image_string.startswith(b"GIF89a")
        assert [h.step for h in log.Histograms(f"lambda_/{pair}/image")] == [2, 4]
        for held in log.Histograms(f"lambda_/{pair}/image"):
            h = held.histogram_value
            # Each value lies in its bucket: so does, summed over buckets, its square.
            upper, counts = np.array(h.bucket_limit), np.array(h.bucket)
            lower = np.concatenate([[0.0], upper[:-1]])
            assert (counts * lower**2).sum() <= h.sum_squares <= (counts * upper**2).sum() < h.sum
        said = log.Tensors(f"words/{pair}/text_summary")[0].tensor_proto.string_val[0].decode()
        assert f"{pair} · step 2 · loss" in said and "| word | nats | mask value |" in said
    assert "stop_reason" in log.Tensors("pairs/text_summary")[0].tensor_proto.string_val[0].decode()


def quiet(folder: Path, watcher: MaskLogger, epochs: int) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=epochs, callbacks=[watcher], default_root_dir=folder,
    )  # fmt: skip


def fit(folder: Path, watcher: MaskLogger, epochs: int = 2, **arguments) -> M2IB:
    method = M2IB("embedded", noise_samples=2, **arguments)
    quiet(folder, watcher, epochs).fit(method, PairDataModule(scenes=3, batch_size=2))
    return method


def test_watching_changes_no_map(tmp_path):
    with_it, without = fit(tmp_path, MaskLogger()), M2IB("embedded", noise_samples=2)
    trainer = quiet(tmp_path, MaskLogger(), 2)
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, MaskLogger)]
    trainer.fit(without, PairDataModule(scenes=3, batch_size=2))
    for a, b in zip(with_it.attributions(), without.attributions(), strict=True):
        np.testing.assert_array_equal(a.image_map, b.image_map)
        np.testing.assert_array_equal(a.text_map, b.text_map)


def test_pairs_are_chosen_by_number_or_by_id(tmp_path):
    fit(tmp_path / "a", MaskLogger(pairs=1))
    assert [p.stem for p in (tmp_path / "a" / "masks").glob("*.gif")] == ["scene-000000"]
    fit(tmp_path / "b", MaskLogger(pairs=["scene-000002"], animation=False))
    assert {p.name for p in (tmp_path / "b" / "masks").iterdir() if p.is_dir()} == {"scene-000002"}
    assert not list((tmp_path / "b" / "masks").glob("*.gif"))
    with pytest.raises(ValueError, match=r"`pairs` to name pairs of the data but got 'cat'.*'scene-000000'"):
        fit(tmp_path / "c", MaskLogger(pairs=["cat"]))


@pytest.mark.parametrize("modality", ["image", "text"])
def test_one_modality_alone_is_shown(tmp_path, modality):
    fit(tmp_path, MaskLogger(), modalities=[modality])
    assert (tmp_path / "masks" / "scene-000000.gif").exists()
    assert (tmp_path / "masks" / "words.csv").read_text().count("\n") > 1 or modality == "image"


def test_the_last_step_is_shown_between_two_pictures(tmp_path):
    fit(tmp_path, MaskLogger(every_n_steps=2, pairs=1), epochs=3)
    assert sorted(p.name[5:9] for p in tmp_path.glob("masks/*/step-*")) == ["0000", "0002", "0003"]


def test_what_a_fit_that_did_not_end_left_is_not_taken_for_this_one(tmp_path):
    began, left = (tmp_path / "masks" / "scene-000000" / f"step-000{step}.png" for step in (0, 9))
    left.parent.mkdir(parents=True)
    for stale in (began, left):
        Image.new("RGB", (9, 9)).save(stale)
    (tmp_path / "masks" / "words.csv").write_text("pair,step,position,word,nats,mask\nscene-000000,9,0,a,1,1\n")
    fit(tmp_path, MaskLogger(pairs=1))
    with (tmp_path / "masks" / "words.csv").open() as file:
        assert {row["step"] for row in csv.DictReader(file)} == {"1", "2"}
    assert not left.exists()
    with Image.open(began) as drawn:
        assert drawn.size != (9, 9)


def test_a_fit_that_goes_on_forgets_the_pictures_and_words_of_the_steps_that_it_makes_again(tmp_path):
    watcher = MaskLogger(pairs=1, animation=False)
    trainer = quiet(tmp_path, watcher, 2)
    method = M2IB("embedded", noise_samples=2)
    trainer.fit(method, PairDataModule(scenes=1))
    masks = tmp_path / "masks"
    for step in (7, 9):
        Image.new("RGB", (9, 9)).save(masks / "scene-000000" / f"step-000{step}.png")
    with (masks / "words.csv").open("a") as file:
        file.write("scene-000000,9,0,a,1,1\n")
    trainer.fit_loop.max_epochs = 3
    trainer.fit_loop.epoch_progress.current.completed = trainer.fit_loop.epoch_progress.current.processed
    watcher.on_train_start(trainer, method)
    assert trainer.current_epoch == 2
    assert sorted(file.name for file in (masks / "scene-000000").glob("step-*")) == [
        f"step-000{i}.png" for i in range(3)
    ]
    with (masks / "words.csv").open() as file:
        assert {row["step"] for row in csv.DictReader(file)} == {"1", "2"}


def test_a_resumed_fit_goes_on_with_its_colours(tmp_path):
    first, second = MaskLogger(), MaskLogger()
    first.scales["a"] = FrameScale(400.0, 30.0)
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert second.scales == first.scales


@pytest.mark.parametrize("arguments", [{"every_n_steps": 0}, {"pairs": 0}])
def test_numbers_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="to be at least 1 but got 0"):
        MaskLogger(**arguments)


class Fitted(M2IB):
    """Three pairs, a to c, whose masks are what a test says they are."""

    def __init__(self) -> None:
        pairs = [Pair(name, Image.linear_gradient("L").convert("RGB"), "an ice-cream van") for name in "abc"]
        batches = [SimpleNamespace(pairs=some) for some in (pairs[:2], pairs[2:])]
        self.__dict__["fits"] = [SimpleNamespace(pairs=len(batch.pairs), batch=batch) for batch in batches]

    @property
    def mask_fits(self) -> list:
        return self.fits

    def attributions(self) -> list:
        return [attribution(id="c", image_map=None), attribution(id="a"), attribution(id="b")]


class Sink(MaskSink):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.steps, self.ends = [], []

    def step(self, media) -> None:
        self.steps.append(media)

    def end(self, step, results) -> None:
        self.ends.append((step, results))


@pytest.fixture
def at(monkeypatch):
    """A trainer at an epoch; masks are not computed, and a picture says only how large the scale is."""

    def states(watched, step):
        return [MaskState(step, 1.25 * step, attribution(id=w.id), attribution(id=w.id)) for w in watched]

    def drawn(state, image, scale):
        return Image.new("L", (9, 9), int(scale.patch))

    monkeypatch.setattr(mask_logger, "read_states", states)
    monkeypatch.setattr(mask_logger, "mask_histograms", lambda watched: {"image": Histogram([1] * 32, 16.0, 10.0)})
    monkeypatch.setattr(mask_logger, "draw_frame", drawn)

    def trainer(epoch: int, folder: Path, **changed: object) -> SimpleNamespace:
        given = {"current_epoch": epoch, "default_root_dir": str(folder), "is_global_zero": True, "loggers": []}
        return SimpleNamespace(**given | changed)

    return trainer


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_every_step_of_eight_pairs_and_an_animation_are_shown_by_default():
    watcher = MaskLogger()
    assert (watcher.every_n_steps, watcher.pairs, watcher.animation) == (1, 8, True)
    assert MaskLogger(every_n_steps=1, pairs=1).pairs == 1 and MaskLogger(pairs=[]).pairs == []


def test_a_fit_is_shown_from_its_start_to_its_table(at, tmp_path):
    watcher, method, sink = MaskLogger(every_n_steps=2, pairs=["c", "a"]), Fitted(), Sink()
    watcher.on_train_start(at(0, tmp_path), method)
    watcher.sinks = [sink]
    for epoch in range(3):
        watcher.on_train_epoch_end(at(epoch, tmp_path), method)
    ((c, a),) = sink.steps
    masks = tmp_path / "masks"
    assert (c.pair, c.step, c.caption) == ("c", 2, "c · step 2 · loss 2.500") and a.pair == "a"
    assert c.picture == masks / "c" / "step-0002.png" and c.word_top == watcher.scales["c"].word
    assert c.words == MaskState(2, 0, attribution(), attribution()).words() and c.histograms["image"].total == 16
    watcher.on_train_end(at(3, tmp_path), method)
    ((step, (last, first)),) = sink.ends
    assert step == 3 and (last.attribution.id, last.overlay, first.attribution.id) == ("c", None, "a")
    assert (first.image, first.overlay) == (masks / "a" / "image.png", masks / "a" / "overlay.png")
    assert first.animation == masks / "a.gif" and first.animation.is_file() and first.words == c.words
    with Image.open(first.image) as image, Image.open(first.overlay) as overlay:
        assert image.size == overlay.size == (256, 256)
    assert sorted(p.name for p in (masks / "c").iterdir()) == [
        "image.png", "step-0000.png", "step-0002.png", "step-0003.png"
    ]  # fmt: skip
    words, histograms, pairs = (rows(masks / f"{name}.csv") for name in ("words", "histograms", "pairs"))
    assert words[0] == ["pair", "step", "position", "word", "nats", "mask"]
    assert [row[:4] for row in words[1 : 1 + len(c.words)]] == [
        ["c", "2", str(i), word[0]] for i, word in enumerate(c.words)
    ]
    assert len(words) == 1 + 2 * len(c.words)
    assert histograms[0] == ["pair", "step", "modality", *(f"from {i / 32:g}" for i in range(32))]
    assert histograms[1:] == [[name, "2", "image", *["1"] * 32] for name in "ca"]
    assert pairs[0] == list(COLUMNS) and [row[0] for row in pairs[1:]] == ["c", "a"]
    watcher.on_train_end(at(3, tmp_path), method)
    assert rows(masks / "pairs.csv") == pairs


@pytest.mark.parametrize(("epoch", "kept", "begun"), [(0, [], True), (1, [0, 1], False), (2, [0, 1, 2], False)])
def test_a_fit_that_goes_on_keeps_what_was_before_it_and_its_scales(at, tmp_path, epoch, kept, begun):
    watcher, masks = MaskLogger(pairs=1, folder=str(tmp_path / "deep" / "masks")), tmp_path / "deep" / "masks"
    watcher.scales = {"a": FrameScale(99.0, 9.0), "z": FrameScale(1.0, 1.0)}
    (masks / "a").mkdir(parents=True)
    for step in (0, 1, 2, 7):
        Image.new("L", (5, 5)).save(masks / "a" / f"step-{step:04d}.png")
    for name in ("words", "histograms"):
        lines = [f"a,{step},x" for step in (1, 2, 3)]
        (masks / f"{name}.csv").write_text("\n".join(["pair,step,more", *lines]) + "\n")
    watcher.on_train_start(at(epoch, tmp_path), Fitted())
    steps = sorted(int(p.stem[-4:]) for p in (masks / "a").glob("step-*"))
    assert steps == sorted({*kept, epoch})
    assert (watcher.scales["a"] == FrameScale(99.0, 9.0)) is not begun and ("z" in watcher.scales) is not begun
    for name in ("words", "histograms"):
        found = rows(masks / f"{name}.csv")
        assert found == [["pair", "step", "more"], *(["a", str(step), "x"] for step in (1, 2, 3) if step <= epoch)]
    with Image.open(masks / "a" / "step-0000.png") as frame:
        assert (frame.size == (9, 9)) is begun


def test_the_first_pairs_are_shown_where_a_number_is_given(at, tmp_path):
    watcher = MaskLogger(pairs=2, animation=False)
    watcher.on_train_start(at(0, tmp_path), Fitted())
    assert [w.id for w in watcher.watched] == ["a", "b"]
    watcher.on_train_end(at(0, tmp_path), Fitted())
    assert not list((tmp_path / "masks").glob("*.gif")) and (tmp_path / "masks" / "pairs.csv").is_file()


def test_ids_that_are_not_there_are_named_with_some_that_are(at, tmp_path):
    many = Fitted()
    names = [f"p{i}" for i in range(7)]
    batch = SimpleNamespace(pairs=[SimpleNamespace(id=name) for name in names])
    many.__dict__["fits"] = [SimpleNamespace(pairs=7, batch=batch)]
    with pytest.raises(ValueError) as said:
        MaskLogger(pairs=["p1", "x", "y"]).on_train_start(at(0, tmp_path), many)
    assert str(said.value) == (
        "Expected `pairs` to name pairs of the data but got 'x'. Remedy: choose among 'p0', 'p1', 'p2', 'p3', 'p4', ..."
    )


def test_other_methods_and_other_processes_show_nothing(at, tmp_path):
    for trainer, method in ((at(0, tmp_path, is_global_zero=False), Fitted()), (at(0, tmp_path), SimpleNamespace())):
        watcher = MaskLogger()
        watcher.on_train_start(trainer, method)
        watcher.on_train_epoch_end(trainer, method)
        watcher.on_train_end(trainer, method)
        assert watcher.watched == [] and list(tmp_path.iterdir()) == []
