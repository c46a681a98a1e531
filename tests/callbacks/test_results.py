"""What a fit leaves in its folder, and when it may go on there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from PIL import Image

from m2ib_lightning.callbacks.results import MADE_WITH, ResultWriter
from m2ib_lightning.callbacks.signals import Ended
from m2ib_lightning.callbacks.summary import Drawing
from m2ib_lightning.methods import M2IB, RandomMap
from m2ib_lightning.store import AttributionStore
from m2ib_lightning.store.checkpoint import CheckpointFiles
from m2ib_lightning.types import Pair
from tests.made import attribution


class Fitted(M2IB):
    """A method that has found something for its pairs already."""

    settings = {"steps": 3, "seed": 0}  # noqa: RUF012

    def __init__(self, count: int = 2, history: bool = True) -> None:
        pairs = [Pair(str(i), Image.linear_gradient("L").convert("RGB"), "an ice-cream van") for i in range(count)]
        fits = [SimpleNamespace(history=[1] * history, batch=SimpleNamespace(pairs=pairs))] if count else []
        self.__dict__["found"], self.__dict__["fits"] = [attribution(id=str(i)) for i in range(count)], fits

    @property
    def mask_fits(self) -> list:
        return self.fits

    def attributions(self) -> list:
        return self.found


def trainer(**changed: object) -> SimpleNamespace:
    strategy = SimpleNamespace(checkpoint_io=TorchCheckpointIO())
    return SimpleNamespace(
        **{"strategy": strategy, "loggers": [], "current_epoch": 3, "precision": "32-true"} | changed
    )


def test_a_fit_writes_pictures_and_attributions_shows_them_and_logs_the_verdicts(tmp_path: Path, capsys):
    logged, run = [], tmp_path / "run"
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append((values, step)))
    writer, method = ResultWriter(run), Fitted()
    writer.setup(trainer(), method, "fit")
    writer.on_train_end(trainer(loggers=[logger]), method)
    store = AttributionStore(run / "attributions")
    assert [a.id for a in store] == ["0", "1"]
    assert sorted(p.name for p in (run / "pictures").iterdir()) == ["0.png", "1.png"]
    verdict = attribution().verdict
    assert logged == [({f"verdict/{verdict}": 2.0}, 3)] and isinstance(logged[0][0][f"verdict/{verdict}"], float)
    assert capsys.readouterr().out == ""
    writer.on_fit_end(trainer(), method)
    out = capsys.readouterr().out
    assert "ice" in out and "2 pairs: 2 " in out and "more pairs" not in out and len(store.parts) == 1


@pytest.mark.parametrize(("pictures", "name"), [(False, None), (Drawing("patch", "svg"), "0.svg")])
def test_pictures_are_drawn_as_they_are_asked_for(pictures, name, tmp_path: Path):
    ResultWriter(tmp_path, pictures).on_train_end(trainer(), Fitted(1))
    assert [p.name for p in tmp_path.glob("pictures/*")] == ([name] if name else [])


def test_a_fit_without_a_step_to_make_writes_at_its_end_and_shows_forty_pairs(tmp_path: Path, capsys):
    writer = ResultWriter(tmp_path, pictures=False)
    writer.on_fit_end(trainer(), Fitted(41))
    assert len(writer.store) == 41 and len(writer.shown) == 40 and "and 1 more pairs" in capsys.readouterr().out
    other = ResultWriter(tmp_path / "other")
    other.on_fit_end(trainer(), RandomMap("embedded"))
    assert other.store.parts == [] and capsys.readouterr().out == ""


def test_a_folder_with_results_is_refused_unless_they_are_of_a_fit_that_was_interrupted(tmp_path: Path):
    def filled(name: str, *reasons: str) -> Path:
        AttributionStore(tmp_path / name / "attributions").append(
            [attribution(id=str(i), stop_reason=reason) for i, reason in enumerate(reasons)]
        )
        return tmp_path / name

    refused = [
        (filled("done", "max_steps"), True),
        (filled("partly", "interrupted", "max_steps"), True),
        (filled("new", "interrupted"), False),
    ]
    for folder, resume in refused:
        count = len(AttributionStore(folder / "attributions"))
        with pytest.raises(
            ValueError, match=f"^Expected no earlier results in '{folder}' but there are {count}. Remedy"
        ):
            ResultWriter(folder, resume=resume).setup(trainer(), Fitted(), "fit")
        assert len(AttributionStore(folder / "attributions")) == count
    with pytest.raises(ValueError, match="no earlier results"):
        ResultWriter(tmp_path / "new").setup(trainer(), Fitted(), "fit")
    ResultWriter(tmp_path / "new", resume=True).setup(trainer(), Fitted(), "fit")
    assert AttributionStore(tmp_path / "new" / "attributions").parts == []
    ResultWriter(tmp_path / "empty", resume=True).setup(trainer(), Fitted(), "fit")


def test_what_killed_processes_left_is_removed_and_checkpoints_are_written_whole(tmp_path: Path):
    left = [tmp_path / name / ".x.1.unfinished" for name in ("attributions", "pictures", "checkpoints")]
    for file in left:
        file.parent.mkdir()
        file.touch()
    of_ours, of_others = trainer(), trainer(strategy=SimpleNamespace(checkpoint_io="another"))
    for one in (of_ours, of_others):
        ResultWriter(tmp_path).setup(one, Fitted(), "fit")
    assert not any(file.exists() for file in left) and of_others.strategy.checkpoint_io == "another"
    assert type(of_ours.strategy.checkpoint_io) is CheckpointFiles


def test_a_fit_goes_on_only_with_what_it_was_begun_with(tmp_path: Path, monkeypatch):
    writer, checkpoint, method = ResultWriter(tmp_path), {}, Fitted()
    writer.on_save_checkpoint(trainer(), method, checkpoint)
    assert checkpoint == {MADE_WITH: {"model": {"steps": 3, "seed": 0}, "precision": "32-true"}}
    writer.on_load_checkpoint(trainer(), method, checkpoint)
    with pytest.raises(ValueError) as said:
        writer.on_load_checkpoint(
            trainer(precision="bf16-mixed"), method, {MADE_WITH: {"model": {"steps": 4, "seed": 0}}}
        )
    assert str(said.value) == (
        "Expected the settings of the checkpoint but got others (model.steps: 4 there, 3 now; "
        "precision: null there, bf16-mixed now). Remedy: the same settings, or begin anew without --ckpt_path."
    )
    monkeypatch.setattr(Fitted, "settings", {f"a{i}": i for i in range(1, 9)})
    with pytest.raises(ValueError, match=r"model\.a6: null there, 6 now\)\. Remedy"):  # six are named
        writer.on_load_checkpoint(trainer(), method, {MADE_WITH: {"precision": "32-true"}})
    writer.on_save_checkpoint(trainer(), RandomMap("embedded"), checkpoint)
    assert checkpoint == {MADE_WITH: {"model": {}, "precision": "32-true"}}


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), Ended(143)])
@pytest.mark.parametrize("saved", [True, False])
def test_an_interrupted_fit_writes_what_it_has_and_says_how_to_go_on(problem, saved, tmp_path: Path, capsys):
    last = tmp_path / "checkpoints" / "last.ckpt"
    if saved:
        last.parent.mkdir()
        last.touch()
    ResultWriter(tmp_path).on_exception(trainer(), Fitted(), problem)
    assert len(AttributionStore(tmp_path / "attributions")) == 2
    out = capsys.readouterr().out
    assert "2 pairs: 2 " in out and "Written:" in out
    told = f"Interrupted. To go on: m2ib fit --config {tmp_path / 'config.yaml'} --ckpt_path {last}\n"
    assert out.endswith(told) is saved and ("To go on" in out) is saved
    assert not isinstance(problem, Ended) or problem.told is saved


@pytest.mark.parametrize(
    ("method", "problem"),
    [(Fitted(history=False), KeyboardInterrupt()), (Fitted(0), KeyboardInterrupt()), (Fitted(), RuntimeError()),
     (RandomMap("embedded"), KeyboardInterrupt())],
)  # fmt: skip
def test_nothing_is_written_where_there_is_nothing_or_something_went_wrong(method, problem, tmp_path: Path, capsys):
    ResultWriter(tmp_path).on_exception(trainer(), method, problem)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
