"""A prediction is written as it comes, taken up where it stopped, and ended by a signal with all of it written."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from m2ib_lightning.callbacks import predictions
from m2ib_lightning.callbacks.predictions import PredictionWriter
from m2ib_lightning.callbacks.signals import Ended
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.data.images import fingerprint
from m2ib_lightning.errors import StoreError
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.store import AttributionStore, Provenance
from m2ib_lightning.store.lock import FolderLock
from m2ib_lightning.types import BadPair, Pair
from tests.made import attribution

PICTURE = Image.linear_gradient("L").convert("RGB")


class Method(AttributionMethod):
    """One that is loaded when it must be."""

    backbone_name = "embedded"
    settings = {"steps": 3}  # noqa: RUF012

    def __init__(self) -> None:
        self.__dict__["prepared"] = 0

    def prepare(self) -> SimpleNamespace:
        self.__dict__["prepared"] += 1
        return SimpleNamespace(weight_hash="abc")

    def attribute(self, batch):
        return []


def trainer(data: PairDataModule | None = None, **changed: object) -> SimpleNamespace:
    given = {"datamodule": data, "is_global_zero": True, "global_rank": 0, "local_rank": 0}
    return SimpleNamespace(**given | {"strategy": SimpleNamespace(barrier=lambda: None, launcher=None)} | changed)


def scenes(count: int) -> PairDataModule:
    data = PairDataModule(scenes=count)
    data.setup("predict")
    return data


def begun(folder: Path, data: PairDataModule | None = None, **options: object) -> PredictionWriter:
    writer = PredictionWriter(folder, **options)
    writer.setup(trainer(data), Method(), "predict")
    return writer


def give(writer: PredictionWriter, *names: str, to: SimpleNamespace | None = None) -> None:
    """A batch of pairs of these names is done; those in upper case are bad."""
    results = [BadPair(n, "", "", "gone") if n.isupper() else attribution(id=n) for n in names]
    batch = [BadPair(n, "", "", "gone") if n.isupper() else Pair(n, PICTURE, "x", fingerprint=f"of {n}") for n in names]
    writer.on_predict_batch_end(to or trainer(), None, results, batch, 0)


def stored(folder: Path) -> list[list[str]]:
    store = AttributionStore(folder / "attributions")
    return [store._table(part, ["id"])["id"].to_pylist() for part in store.parts]


@pytest.mark.parametrize(("pairs", "seconds", "fits"), [(1, 0, True), (0, 0, False), (1, -0.1, False), (0, -1, False)])
def test_parts_are_of_one_pair_at_least_and_any_time(pairs, seconds, fits, tmp_path: Path):
    if fits:
        assert PredictionWriter(tmp_path, part_pairs=pairs, part_seconds=seconds).part_pairs == 1
        return
    with pytest.raises(ValueError) as said:
        PredictionWriter(tmp_path, part_pairs=pairs, part_seconds=seconds)
    assert str(said.value) == (
        f"Expected `part_pairs` from 1 and `part_seconds` from 0 but got {pairs} and {seconds}. "
        "Remedy: the defaults are 512 and 30."
    )


def test_results_are_written_with_fingerprints_and_shown_with_the_totals(tmp_path: Path, capsys):
    data = scenes(3)
    writer = begun(tmp_path, data)
    assert (writer.writer.pairs, writer.writer.seconds, writer.writer.precision) == (512, 30, "float32")
    assert data.skip == set() and not writer.pictures
    give(writer, "a", "B")
    give(writer, "c")
    assert (writer.written, writer.explained, [a.id for a in writer.shown]) == (3, 2, ["a", "c"])
    writer.teardown(trainer(data), None, "predict")
    out = capsys.readouterr().out
    assert "ice" in out and "Done: 2 pairs" in out and "Bad: 1 pairs" in out and "Nothing to do" not in out
    store = AttributionStore(tmp_path / "attributions")
    assert stored(tmp_path) == [["a", "B", "c"]] and {n: mark for n, (_, mark) in store.inputs().items()} == {
        "a": "of a", "c": "of c"
    }  # fmt: skip
    provenance = store.provenance
    assert (
        provenance[:3] == ("embedded", "abc", {"steps": 3, "maps": "float32"}) and not (tmp_path / "pictures").exists()
    )
    writer.teardown(trainer(data), None, "predict")
    assert capsys.readouterr().out == ""
    FolderLock(tmp_path / "attributions").take(patience=-1)  # is free


def test_forty_pairs_are_shown_and_pictures_drawn_before_a_pair_is_done(tmp_path: Path, capsys):
    writer = begun(tmp_path, scenes(99))
    give(writer, *(f"a{i}" for i in range(30)))
    give(writer, *(f"b{i}" for i in range(30)))
    assert [a.id for a in writer.shown] == [*(f"a{i}" for i in range(30)), *(f"b{i}" for i in range(10))]
    writer.teardown(trainer(), None, "predict")
    assert "and 20 more pairs" in capsys.readouterr().out
    drawing = begun(tmp_path / "drawn", pictures=True)
    give(drawing, "a", "B")
    assert [file.name for file in tmp_path.glob("drawn/pictures/*")] == ["a.png"]
    with pytest.raises(KeyError):
        drawing.on_predict_batch_end(trainer(), None, [attribution(id="z")], [], 0)
    drawing.teardown(trainer(), None, "predict")
    assert stored(tmp_path / "drawn") == [["a", "B"]]


def test_a_run_goes_on_behind_what_is_there_and_tries_again_what_it_is_told_to(tmp_path: Path, capsys):
    writer = begun(tmp_path, scenes(4))
    give(writer, "scene-000000", "BAD")
    writer.teardown(trainer(), None, "predict")
    left = [tmp_path / name / ".x.1.unfinished" for name in ("attributions", "pictures")]
    left[1].parent.mkdir()
    for file in left:
        file.touch()
    capsys.readouterr()
    data = scenes(4)
    begun(tmp_path, data).teardown(trainer(data), None, "predict")
    assert data.skip == {"scene-000000", "BAD"} and not any(file.exists() for file in left)
    assert "Nothing to do: every pair is there.\nDone: 1 pairs" in capsys.readouterr().out
    begun(tmp_path, data, retry_errors=True).teardown(trainer(data), None, "predict")
    assert data.skip == {"scene-000000"} and stored(tmp_path) == [["scene-000000"]]
    with pytest.raises(ValueError, match=f"^Expected no earlier results in '{tmp_path}' but there are 1. Remedy: "):
        begun(tmp_path)
    for options, message in (
        ({"maps": "float16"}, "maps: float32 there, float16 now"),
        ({"configuration": {"steps": 4}}, "steps: 3 there, 4 now"),
    ):
        method = Method()
        with pytest.raises(ValueError, match=message):
            PredictionWriter(tmp_path, **options).setup(trainer(data), method, "predict")
        assert method.prepared == ("maps" in options)  # a configuration is compared before the model is loaded
    begun(tmp_path, data, configuration={"steps": 3}).teardown(trainer(data), None, "predict")


def test_pairs_that_are_others_now_are_named_and_explained_again_where_that_is_wanted(tmp_path: Path, capsys):
    PICTURE.save(tmp_path / "a.png")
    folder = tmp_path / "run"
    AttributionStore(folder / "attributions").append(
        [attribution(id="a", text="a cat"), attribution(id="b")],
        Provenance("embedded", "abc", {"steps": 3, "maps": "float32"}),
    )
    for again in (False, True):
        data = PairDataModule(image=str(tmp_path / "a.png"), text="a dog")
        data.setup("predict")
        begun(folder, data, retry_changed=again).lock.release()
        assert data.skip == ({"b"} if again else {"a", "b"})
        assert ("a (caption); they are explained again" in capsys.readouterr().out) is again
    assert fingerprint(str(tmp_path / "a.png"))


@pytest.mark.parametrize(("stage", "method"), [("test", Method()), ("predict", SimpleNamespace())])
def test_other_runs_are_left_alone(stage, method, tmp_path: Path, capsys):
    writer = PredictionWriter(tmp_path)
    writer.setup(trainer(), method, stage)
    writer.teardown(trainer(), method, stage)
    writer.on_exception(trainer(), method, RuntimeError())
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_a_refused_run_leaves_the_folder_and_ends_the_processes_that_wait_for_it(tmp_path: Path):
    begun(tmp_path).teardown(trainer(), None, "predict")
    AttributionStore(tmp_path / "attributions").append([attribution()], Provenance("embedded", "other", {}))
    told = []
    launched = SimpleNamespace(barrier=lambda: told.append("waits"), launcher=SimpleNamespace(kill=told.append))
    with pytest.raises(ValueError, match="no earlier results"):
        PredictionWriter(tmp_path).setup(trainer(strategy=launched), Method(), "predict")
    assert told == [signal.SIGKILL]
    FolderLock(tmp_path / "attributions").take(patience=-1)


def test_another_process_waits_for_the_first_and_shows_nothing(tmp_path: Path, capsys):
    waited = []
    second = trainer(is_global_zero=False, global_rank=1, local_rank=1,
                     strategy=SimpleNamespace(barrier=lambda: waited.append(1), launcher=None))  # fmt: skip
    writer = PredictionWriter(tmp_path, maps="float16", part_pairs=7, part_seconds=8)
    writer.setup(second, Method(), "predict")
    assert waited == [1] and (writer.writer.rank, writer.writer.pairs, writer.writer.seconds) == (1, 7, 8)
    give(writer, "a", to=second)
    writer.teardown(second, None, "predict")
    assert capsys.readouterr().out == ""
    assert [p.name for p in AttributionStore(tmp_path / "attributions").parts] == ["part-00001-000000.parquet"]


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in predictions.known_signals()}
    for number in before:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_ends_the_run_after_its_batch_and_is_passed_on(tmp_path: Path, handlers):
    told: list = []
    first = trainer(strategy=SimpleNamespace(barrier=lambda: None, launcher=SimpleNamespace(kill=told.append)))
    writer = begun(tmp_path)
    assert writer.stopped_by == 0
    writer.on_predict_start(first, None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    assert writer.stopped_by == signal.SIGHUP and told == [signal.SIGTERM] * 2
    with pytest.raises(Ended) as ended:
        give(writer, "a", to=first)
    assert ended.value.code == 128 + 1 and writer.written == 1
    with pytest.raises(Ended) as ended:
        give(writer, "b", to=trainer(global_rank=1, local_rank=1))
    assert ended.value.code == 0
    writer.lock.release()


@pytest.mark.parametrize(
    ("rank", "parent", "ends"), [(0, 1, False), (1, 1, True), (2, 1, True), (1, None, False), (0, None, False)]
)
def test_a_process_ends_when_whoever_started_it_is_gone(rank, parent, ends, tmp_path: Path, monkeypatch):
    writer = begun(tmp_path)
    if parent is not None:
        monkeypatch.setattr(predictions.os, "getppid", lambda: parent)
    of = trainer(local_rank=rank, global_rank=rank)
    if ends:
        with pytest.raises(Ended) as ended:
            give(writer, "a", to=of)
        assert ended.value.code == 0
    else:
        give(writer, "a", to=of)
    writer.lock.release()


@pytest.mark.parametrize(
    ("problem", "first", "said"),
    [
        (KeyboardInterrupt(), True, True),
        (Ended(143), True, True),
        (Ended(143), False, False),
        (RuntimeError(), True, False),
    ],
)
def test_what_is_finished_is_written_whatever_ends_a_run(problem, first, said, tmp_path: Path, capsys):
    writer = begun(tmp_path)
    give(writer, "a")
    writer.on_exception(trainer(is_global_zero=first), None, problem)
    assert stored(tmp_path) == [["a"]]
    told = f"Stopped; what was finished is written. The same command with --output {tmp_path} goes on.\n"
    assert capsys.readouterr().out == told * said
    assert not isinstance(problem, Ended) or problem.told is True
    FolderLock(tmp_path / "attributions").take(patience=-1)


def test_after_a_disk_that_is_full_nothing_more_is_tried(tmp_path: Path):
    writer = begun(tmp_path)
    give(writer, "a")
    writer.on_exception(trainer(), None, StoreError("full"))
    assert stored(tmp_path) == []
