"""What is published: a wheel that works alone, and a source archive whose tests can be run."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

from m2ib_lightning import __version__

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def build(target: str, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder)
    (built,) = folder.iterdir()
    return built


def test_a_wheel_alone_fits_a_pair_from_another_folder(tmp_path):
    wheel = build("wheel", tmp_path / "dist")
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    # What the package needs, from here; an editable install of it is not seen through this line.
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = run(python, "-c", "import m2ib_lightning as m; print(m.__file__, m.__version__)", cwd=elsewhere)
    assert Path(said.split()[0]).is_relative_to(site) and said.split()[1] == __version__
    assert (site / "m2ib_lightning" / "py.typed").is_file()
    fit = ("fit", "--data.scenes", 1, "--trainer.max_epochs", 2, "--output", "out")
    run(python.parent / "m2ib", *fit, cwd=elsewhere)
    assert list((elsewhere / "out").rglob("*.parquet"))


def test_a_source_archive_holds_what_its_tests_read(tmp_path):
    with tarfile.open(build("sdist", tmp_path / "dist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    tracked = run("git", "ls-files", "tests", "configs", "notebooks", "scripts", "m2ib_lightning").splitlines()
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} >= set(tracked)
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_imports.py", cwd=folder)


def test_the_version_stands_in_one_place():
    assert version("m2ib_lightning") == __version__
    assert [p for p in (ROOT / "m2ib_lightning").rglob("*.py") if f'"{__version__}"' in p.read_text()] == [
        ROOT / "m2ib_lightning" / "version.py"
    ]
