"""Faults of disks, clocks and files, and files that would run a program: what is done stays, and one line is said."""

import errno
import gc
import itertools
import json
import os

import pyarrow.parquet as pq
import pytest

from m2ib_lightning import AttributionStore, load_backbone
from m2ib_lightning.cli import main
from m2ib_lightning.report.gallery import save_run_gallery
from m2ib_lightning.store import Provenance
from m2ib_lightning.store.writer import PartWriter
from tests.made import attribution, failure

MADE = Provenance("embedded", "abc", {})
QUICK = ["--data.scenes=3", "--data.batch_size=1", "--model=RandomMap", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def run(tmp_path):
    """The folder of a run of two parts."""
    store = AttributionStore(tmp_path / "attributions")
    store.append([attribution(id="a")], MADE)
    store.append([attribution(id="b")], MADE)
    return tmp_path


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_the_gallery_of_a_damaged_store_names_the_part_and_writes_no_page(damage, run, capsys):
    part = AttributionStore(run / "attributions").parts[1]
    if damage == "foreign":
        pq.write_table(pq.read_table(part).select(["id"]), part)
    else:
        part.write_bytes(part.read_bytes()[: 200 * (damage == "cut")])
    said = failure(capsys, "gallery", str(run))
    assert part.name in said and "Remedy: " in said
    assert not (run / "gallery.html").exists()


def test_a_disk_that_fills_while_the_gallery_is_written_leaves_the_page_of_before(run, capsys, monkeypatch):
    before = save_run_gallery(run).path.read_bytes()
    AttributionStore(run / "attributions").append([attribution(id="c")], MADE)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        assert "Expected room on the disk" in failure(capsys, "gallery", str(run))
    assert (run / "gallery.html").read_bytes() == before and len(os.listdir(run)) == 2
    assert save_run_gallery(run).pairs == 3


def test_a_clock_that_goes_back_loses_no_pair_and_no_order(tmp_path, monkeypatch):
    clock = itertools.count(2_000_000_000, -1000)
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    main(["predict", *QUICK, f"--output={tmp_path}", "--part_pairs=1"])
    parts = AttributionStore(tmp_path / "attributions").parts
    for age, part in enumerate(parts):
        os.utime(part, (1e9 - age, 1e9 - age))
    assert [a.id for a in AttributionStore(tmp_path / "attributions")] == [f"scene-00000{i}" for i in range(3)]
    main(["predict", *QUICK, f"--output={tmp_path}", "--part_pairs=1"])
    assert len(AttributionStore(tmp_path / "attributions")) == 3


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_an_output_that_cannot_be_written_is_one_line(verb, tmp_path, monkeypatch, capsys):
    make = os.mkdir

    def read_only(path, *given, **keywords):
        if "locked" in str(path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        make(path, *given, **keywords)

    monkeypatch.setattr("os.mkdir", read_only)
    arguments = ["--data.scenes=1", "--model.steps=1", f"--output={tmp_path / 'locked'}"]
    said = failure(capsys, verb, *arguments, "--trainer.enable_progress_bar=false")
    assert "locked" in said and "Read-only file system" in said and "Remedy: " in said


@pytest.mark.slow
def test_thousands_of_pairs_leave_no_file_open(tmp_path):
    writer = PartWriter(AttributionStore(tmp_path), MADE, pairs=100, seconds=1e9)
    before = len(os.listdir("/proc/self/fd"))
    for start in range(0, 3000, 50):
        writer.add([attribution(id=str(i), history={}) for i in range(start, start + 50)])
    writer.flush()
    assert len(writer.store.parts) == 30 and len(writer.store.ids()) == 3000
    assert writer.store["2999"].id == "2999"
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before + 10  # libraries may open a few of their own, not one per part


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [pwned]", "!!python/name:os.system", "&a [*a, {"])
def test_a_tag_of_a_configuration_makes_no_object(tag, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(f"model: {tag}\n")
    assert "evil.yaml" in failure(capsys, "predict", "--config=evil.yaml", *QUICK[:1])
    assert sorted(os.listdir(tmp_path)) == ["evil.yaml"]


def test_code_that_lies_beside_weights_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass Evil: pass\n")
    said = {"model_type": "evil", "architectures": ["Evil"], "auto_map": {"AutoConfig": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="Expected a model at"):
        load_backbone(str(tmp_path))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("precision", ["16", "bf16"])
def test_weights_of_half_precision_are_refused_and_mixed_precision_named(precision, tmp_path, capsys):
    said = failure(
        capsys, "predict", "--data.scenes=1", f"--output={tmp_path}", f"--trainer.precision={precision}-true"
    )
    assert said.endswith(f"Remedy: --trainer.precision {precision}-mixed.")
