"""A prediction over many pairs: resumed, shared among processes, killed, with bad pairs and full disks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from m2ib_lightning import M2IB, AttributionStore, PairDataModule, load_backbone
from m2ib_lightning.callbacks import PredictionWriter
from m2ib_lightning.cli import main
from m2ib_lightning.data import make_scene
from m2ib_lightning.types import BadPair, Pair
from tests.made import failure

ROOT = Path(__file__).parent.parent
QUICK = ["--model.steps=3", "--model.noise_samples=2", "--trainer.enable_progress_bar=false"]
COMMAND = ["predict", "--data.scenes=24", "--data.batch_size=4", "--part_pairs=8", *QUICK]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    main([*COMMAND, f"--output={folder}"])
    return folder


def living(group: int) -> list[int]:
    """The processes of a group that run; one that has ended may wait for whoever adopted it to notice."""
    stats = {int(f.parent.name): f.read_text().rpartition(")")[2].split() for f in Path("/proc").glob("[0-9]*/stat")}
    return [pid for pid, (state, _, of, *_) in stats.items() if int(of) == group and state not in "ZX"]


def store(folder: Path) -> AttributionStore:
    return AttributionStore(folder / "attributions")


def assert_same(a: Path, b: Path, bit_equal: bool = True) -> None:
    """Every id once, and the same maps."""
    assert Counter(store(a).to_pandas().id) == Counter(store(b).to_pandas().id)
    for one in store(a):
        other = store(b)[one.id]
        for name in ("image_map", "text_map"):
            x, y = getattr(one, name), getattr(other, name)
            assert np.array_equal(x, y) if bit_equal else np.abs(x - y).max() <= 1e-4 * np.abs(y).max()


class Interrupt(Callback):
    """Raises or signals after a batch."""

    def __init__(self, batch: int, how: str) -> None:
        self.batch, self.how = batch, how

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == self.batch:
            if self.how == "KeyboardInterrupt":
                raise KeyboardInterrupt
            if self.how == "error":
                raise RuntimeError("out of luck")
            os.kill(os.getpid(), getattr(signal, self.how))


def interrupted(folder: Path, batch: int, how: str) -> pytest.ExceptionInfo[BaseException]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would rightly be ignored
    arguments = f'{{"class_path": "tests.test_predict.Interrupt", "init_args": {{"batch": {batch}, "how": "{how}"}}}}'
    try:
        with pytest.raises((SystemExit, RuntimeError)) as ended:
            main([*COMMAND, f"--output={folder}", f"--trainer.callbacks={arguments}"])
        return ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "written", "status"),
    [("KeyboardInterrupt", 12, 1), ("error", 12, None), ("SIGTERM", 16, 128 + 15), ("SIGHUP", 16, 128 + 1)],
)
def test_what_is_finished_is_written_however_a_run_ends_and_the_same_command_goes_on(
    how, written, status, undisturbed, tmp_path, capsys
):
    ended = interrupted(tmp_path, 3, how)
    assert len(store(tmp_path)) == written and getattr(ended.value, "code", None) == status
    if how != "error":
        assert f"same command with --output {tmp_path}" in capsys.readouterr().out.replace("\n", "")
    main([*COMMAND, f"--output={tmp_path}"])
    assert "Done: 24 pairs" in capsys.readouterr().out
    assert_same(tmp_path, undisturbed)


def test_a_finished_folder_has_nothing_left_to_do(undisturbed, capsys):
    before = {part: part.stat().st_mtime_ns for part in store(undisturbed).parts}
    main([*COMMAND, f"--output={undisturbed}"])
    out = capsys.readouterr().out
    assert "Nothing to do: every pair is there." in out and "Done: 24 pairs" in out
    assert {part: part.stat().st_mtime_ns for part in store(undisturbed).parts} == before


@pytest.mark.parametrize(
    ("argument", "difference"),
    [
        ("--model.image_beta=1.0", r"(model.image_beta: 3.0 there, 1.0 now)"),
        ("--data.scene_seed=5", r"(data.scene_seed: 0 there, 5 now)"),
        ("--maps=float16", r"(maps: float32 there, float16 now)"),
        ("--model.steps=4", r"(model.steps: 3 there, 4 now)"),
        ("--model.noise_samples=3", r"(model.noise_samples: 2 there, 3 now)"),
        ("--trainer.precision=bf16-mixed", r"(precision: 32-true there, bf16-mixed now)"),
        ("--model=RandomMap", r"model.class_path: m2ib_lightning.M2IB there, m2ib_lightning"),
    ],
)
def test_another_configuration_is_refused_before_any_work(argument, difference, undisturbed, capsys, monkeypatch):
    config = (undisturbed / "config.yaml").read_text()
    command = [*COMMAND[:4], argument] if "RandomMap" in argument else [*COMMAND, argument]
    monkeypatch.setattr("m2ib_lightning.methods.AttributionMethod.prepare", lambda _: pytest.fail("loads the model"))
    said = failure(capsys, *command, f"--output={undisturbed}")
    assert difference in said and "Remedy: choose another --output" in said
    assert len(store(undisturbed)) == 24 and (undisturbed / "config.yaml").read_text() == config


@pytest.mark.slow
def test_what_changes_no_result_may_change(undisturbed, tmp_path):
    interrupted(tmp_path, 2, "error")
    main([*COMMAND, f"--output={tmp_path}", "--data.batch_size=5", "--model.noise_chunk=1", "--part_pairs=100"])
    assert_same(tmp_path, undisturbed, bit_equal=False)


def test_other_weights_of_the_same_name_are_refused(tmp_path, capsys, monkeypatch):
    main([*COMMAND, "--data.scenes=1", f"--output={tmp_path}"])
    monkeypatch.setattr("m2ib_lightning.backbones.Backbone.weight_hash", "another")
    assert "there, another now" in failure(capsys, *COMMAND, "--data.scenes=1", f"--output={tmp_path}")


@pytest.mark.slow
def test_predict_gives_the_maps_of_fit(undisturbed, tmp_path):
    main(["fit", "--data.scenes=24", "--data.batch_size=7", "--pictures=false", f"--output={tmp_path}", *QUICK])
    assert_same(tmp_path, undisturbed, bit_equal=False)


def a_table(folder: Path) -> Path:
    """Pairs of which the second has no picture and the fourth no text."""
    for i in range(5):
        if i != 1:
            make_scene(i).image.save(folder / f"{i}.png")
    rows = [f"{i}.png,{'' if i == 3 else 'a cat'}" for i in range(5)]
    (folder / "pairs.csv").write_text("\n".join(["image,text", *rows]))
    return folder / "pairs.csv"


@pytest.mark.slow
def test_bad_pairs_are_named_and_tried_again_only_when_asked(tmp_path, capsys):
    command = ["predict", f"--data.source={a_table(tmp_path)}", f"--output={tmp_path / 'out'}", *QUICK]
    main(command)
    out = capsys.readouterr().out
    assert "Done: 3 pairs" in out and "Bad: 2 pairs" in out and "\n  1: " in out and "\n  3: " in out
    assert [a.id for a in store(tmp_path / "out")] == ["0", "2", "4"]
    make_scene(1).image.save(tmp_path / "1.png")
    main(command)
    assert "Nothing to do" in capsys.readouterr().out and len(store(tmp_path / "out")) == 3
    main([*command, "--retry_errors=true"])
    assert "Done: 4 pairs" in capsys.readouterr().out
    assert [bad.id for bad in store(tmp_path / "out").errors()] == ["3"]
    assert Counter(store(tmp_path / "out").to_pandas().id) == Counter("01234")


def test_many_bad_pairs_are_not_all_named(tmp_path, capsys):
    rows = [f"{'good' if i == 0 else i}.png,a cat,{i}" for i in range(31)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,text,id", *rows]))
    make_scene(0).image.save(tmp_path / "good.png")
    main(["predict", f"--data.source={tmp_path / 'pairs.csv'}", f"--output={tmp_path / 'out'}", *QUICK])
    out = capsys.readouterr().out
    assert "Bad: 30 pairs" in out and "and 10 more" in out and out.count(".png") == 20


def test_a_bad_pair_stops_the_run_if_it_shall(tmp_path, capsys):
    command = ["predict", f"--data.source={a_table(tmp_path)}", "--data.on_error=stop", *QUICK]
    assert "1.png" in failure(capsys, *command, f"--output={tmp_path / 'out'}")


def test_a_pair_that_the_model_cannot_read_is_bad_and_the_others_of_its_batch_are_explained(monkeypatch):
    method = M2IB(load_backbone("embedded"), steps=1, noise_samples=1)
    method.on_error = "record"
    original = method.backbone.read_pairs

    def picky(pairs):
        if any(pair.text == "odd" for pair in pairs):
            raise ValueError("Expected a text but got an odd one. Remedy: another.")
        return original(pairs)

    method.backbone.__dict__["read_pairs"] = picky
    image = make_scene(0).image
    unread = BadPair("0", "", "x.png", "gone")
    batch = [unread, Pair("1", image, "a cat"), Pair("2", image, "odd"), Pair("3", image, "a key")]
    found = method.predict_step(batch, 0)
    assert [result.id for result in found] == ["0", "1", "2", "3"]
    assert found[0] == unread and isinstance(found[2], BadPair) and "odd one" in found[2].error
    method.on_error = "stop"
    with pytest.raises(ValueError, match="odd one"):
        method.predict_step(batch, 0)


def test_in_python_a_trainer_writes_and_goes_on_with_a_data_module_only(tmp_path):
    def predict(folder: Path, **data) -> None:
        quiet = dict(enable_progress_bar=False, enable_model_summary=False)
        trainer = Trainer(accelerator="cpu", logger=False, callbacks=[PredictionWriter(folder)], **quiet)
        trainer.predict(M2IB(steps=1, noise_samples=1), return_predictions=False, **data)

    for _ in range(2):
        predict(tmp_path / "a", datamodule=PairDataModule(scenes=3))
    assert [a.id for a in store(tmp_path / "a")] == [f"scene-00000{i}" for i in range(3)]
    loader = DataLoader([Pair("x", make_scene(0).image, "a cat")], collate_fn=list)
    predict(tmp_path / "b", dataloaders=loader)
    with pytest.raises(ValueError, match=r"no earlier results .* PairDataModule"):
        predict(tmp_path / "b", dataloaders=loader)
    assert len(store(tmp_path / "b")) == 1


def run(*arguments: str, **keywords) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "m2ib_lightning", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        program, env=environment, capture_output=True, text=True, timeout=240, check=False, **keywords
    )


@pytest.mark.parametrize(
    ("rank", "launcher", "goes_on"),
    [(1, "lives", True), (1, "was killed", False), (0, "was killed", True)],  # a shell that has ended ends nothing
)
def test_a_process_goes_on_while_its_launcher_lives(rank, launcher, goes_on, tmp_path, monkeypatch):
    writer, taken = PredictionWriter(tmp_path), []
    writer.writer = SimpleNamespace(add=lambda results, _: taken.extend(results))
    if launcher == "was killed":
        monkeypatch.setattr(os, "getppid", lambda: 1)
    outcome = nullcontext() if goes_on else pytest.raises(SystemExit)
    with outcome as ended:
        writer.on_predict_batch_end(SimpleNamespace(local_rank=rank, global_rank=rank), None, ["a result"], [], 0)
    assert taken == ["a result"] and (goes_on or ended.value.code == 0)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(undisturbed, tmp_path):
    done = run(*COMMAND, "--trainer.devices=2", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done: 24 pairs") == 1
    assert {part.name[:10] for part in store(tmp_path).parts} == {"part-00000", "part-00001"}
    assert_same(tmp_path, undisturbed, bit_equal=False)


def test_a_fit_on_several_processes_is_refused(tmp_path, capsys):
    said = failure(capsys, "fit", "--data.scenes=2", "--trainer.devices=2", f"--output={tmp_path}", *QUICK)
    assert "one process for `m2ib fit` but got 2. Remedy: --trainer.devices 1, or `m2ib predict`" in said


def test_processes_that_others_start_need_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("M2IB_OUTPUT", raising=False)
    assert "--output where processes share the work" in failure(capsys, *COMMAND)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "--scenes=40 --kills=3 --last=2",
        "--scenes=24 --kills=1 --last=2 --devices=2",
        "--scenes=4 --kills=3 --last=1 --verb=fit",
        "--scenes=64 --kills=3 --last=1 --verb=compare",
    ],
)
def test_a_killed_run_goes_on(how, tmp_path):
    program = [sys.executable, "scripts/kill_and_resume.py", *how.split(), f"--folder={tmp_path}"]
    done = subprocess.run(
        program, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT,
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "ids once" in done.stdout, done.stdout + done.stderr


def test_two_commands_at_once_in_one_folder_are_refused(tmp_path, capsys, monkeypatch):
    from m2ib_lightning.store.lock import FolderLock

    monkeypatch.setattr("m2ib_lightning.store.lock.PATIENCE", 0.1)
    other = FolderLock(tmp_path / "attributions")
    other.take()
    assert "no other process that writes" in failure(capsys, *COMMAND, f"--output={tmp_path}")
    other.release()


@pytest.mark.slow
def test_a_truncated_part_is_named_and_the_rest_is_kept(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "run")
    part = store(tmp_path / "run").parts[1]
    part.write_bytes(part.read_bytes()[:1000])
    said = failure(capsys, *COMMAND, f"--output={tmp_path / 'run'}")
    assert str(part) in said and "Remedy: remove that file and run the same command again" in said
    part.unlink()
    main([*COMMAND, f"--output={tmp_path / 'run'}"])
    assert_same(tmp_path / "run", undisturbed)


def test_a_garbled_map_is_found_before_a_run_goes_on(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "run")
    part = store(tmp_path / "run").parts[1]
    column = pq.ParquetFile(part).schema_arrow.get_field_index("image_map")
    whole, place = bytearray(part.read_bytes()), pq.ParquetFile(part).metadata.row_group(0).column(column)
    whole[place.data_page_offset + place.total_compressed_size // 2] ^= 1
    part.write_bytes(whole)
    said = failure(capsys, *COMMAND, f"--output={tmp_path / 'run'}")
    assert f"a whole part but {part} is damaged" in said and "Remedy: remove that file" in said


def test_a_part_under_two_names_counts_once_and_is_named(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "run")
    part = store(tmp_path / "run").parts[1]
    shutil.copy(part, part.with_name("part-00000-000099.parquet"))
    main([*COMMAND, f"--output={tmp_path / 'run'}"])
    out = capsys.readouterr().out
    assert "Done: 24 pairs" in out and "Doubled: 8 pairs of part-00000-000099.parquet" in out


def explain_table(folder: Path, rows: str, **options) -> list[str]:
    """Explain the pairs of a table; gives the ids that were computed."""
    (folder / "pairs.csv").write_text("id,image,text\n" + rows)
    writer = PredictionWriter(folder / "out", **options)
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[writer], enable_progress_bar=False, enable_model_summary=False
    )
    data = PairDataModule(source=str(folder / "pairs.csv"))
    trainer.predict(M2IB(steps=1, noise_samples=1), datamodule=data, return_predictions=False)
    return [a.id for a in writer.shown]


def test_pairs_that_changed_are_named_and_explained_again_only_when_asked(tmp_path, capsys):
    for i in range(3):
        make_scene(i).image.save(tmp_path / f"{i}.png")
    before = "a,0.png,a cat\nb,1.png,a dog\nc,2.png,a key\n"
    assert explain_table(tmp_path, before) == ["a", "b", "c"]
    os.utime(tmp_path / "2.png")  # copied, say: the same picture
    assert explain_table(tmp_path, before) == [] and "Changed" not in capsys.readouterr().out
    first = {a.id: a for a in store(tmp_path / "out")}
    make_scene(7).image.save(tmp_path / "1.png")
    after = before.replace("a cat", "a crab")
    assert explain_table(tmp_path, after) == []
    said = capsys.readouterr().out
    assert "Changed since they were explained: 2 pairs, a (caption), b (image); their results are the old ones." in said
    assert "--retry_changed true" in said and store(tmp_path / "out")["a"].text == "a cat"
    assert explain_table(tmp_path, after, retry_changed=True) == ["a", "b"]
    assert "2 pairs, a (caption), b (image); they are explained again." in capsys.readouterr().out
    found = {a.id: a for a in store(tmp_path / "out")}
    assert len(found) == 3 and found["a"].text == "a crab"
    assert not np.array_equal(found["b"].image_map, first["b"].image_map)
    np.testing.assert_array_equal(found["c"].image_map, first["c"].image_map)
    assert explain_table(tmp_path, after, retry_changed=True) == [] and "Changed" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_pair_whose_picture_could_not_be_drawn_is_not_done(tmp_path, monkeypatch):
    from m2ib_lightning.callbacks import summary

    make_scene(0).image.save(tmp_path / "0.png")
    rows = "".join(f"{i},0.png,a cat\n" for i in range(3))
    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        drawn = summary.save_pair_figure
        full.setattr(
            summary, "save_pair_figure",
            lambda a, *how: drawn(a, *how) if a.id == "0" else (_ for _ in ()).throw(OSError(28, "No space left")),
        )  # fmt: skip
        explain_table(tmp_path, rows, pictures=True)
    assert len(store(tmp_path / "out")) == 0
    assert explain_table(tmp_path, rows, pictures=True) == ["0", "1", "2"]
    assert sorted(file.name for file in (tmp_path / "out" / "pictures").iterdir()) == ["0.png", "1.png", "2.png"]


@pytest.mark.slow
def test_a_part_is_written_when_its_time_has_come(tmp_path):
    main([*COMMAND, "--part_seconds=0", f"--output={tmp_path}"])
    assert len(store(tmp_path).parts) == 6 and len(store(tmp_path)) == 24


@pytest.mark.parametrize("given", [{"part_pairs": 0}, {"part_seconds": -1.0}])
def test_parts_of_no_pair_or_from_before_the_run_are_refused(given, tmp_path):
    with pytest.raises(ValueError, match=r"`part_pairs` from 1 and `part_seconds` from 0 but got .* Remedy: "):
        PredictionWriter(tmp_path, **given)


@pytest.mark.slow
def test_processes_that_were_started_end_with_the_first_when_a_folder_is_refused(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    begun = subprocess.Popen(
        [sys.executable, "-m", "m2ib_lightning", *COMMAND, "--model.steps=4", "--trainer.devices=2",
         f"--output={tmp_path / 'run'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    said = begun.communicate(timeout=200)[1]  # ends only when nobody holds the pipe any more
    assert begun.returncode == 2 and "model.steps: 3 there, 4 now" in said and "Traceback" not in said
    assert living(begun.pid) == []


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_line_and_the_same_command_goes_on_when_there_is_room(undisturbed, tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        command = [*COMMAND, "--part_pairs=4", f"--output={tmp_path}"]
        said = run(*command)
        errors = [line for line in said.stderr.splitlines() if "error" in line]
        assert said.returncode == 2 and len(errors) == 1 and f"room for a part in {tmp_path}" in errors[0]
        assert "Traceback" not in said.stderr and "the same command goes on" in errors[0]
        kept = len(store(tmp_path))
        assert 0 < kept < 24
        subprocess.run(["mount", "-o", "remount,size=10m", tmp_path], check=True)
        assert run(*command).returncode == 0
        assert_same(tmp_path, undisturbed)
    finally:
        deadline = time.monotonic() + 10
        while subprocess.run(["umount", tmp_path], check=False).returncode and time.monotonic() < deadline:
            time.sleep(0.2)


@pytest.mark.slow
def test_progress_says_pairs_speed_and_time_left(tmp_path):
    done = run(*COMMAND[:-1], f"--output={tmp_path}")
    line = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert "24 of 24 pairs" in line and "pairs/s" in line and "left" in line, line
