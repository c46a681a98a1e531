"""The tests of open_clip's models where it is not installed: with a copy that lies aside, in a process of their own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASIDE = Path(sys.prefix) / "open_clip"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("open_clip") is not None, reason="open_clip is installed: test_openclip.py has run")
@pytest.mark.skipif(not ASIDE.is_dir(), reason="scripts/bootstrap has not put open_clip aside")
def test_open_clips_models_in_a_process_of_their_own():
    plugins = ["-p", "tests.backbones.torchvision_operators", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", *plugins, "tests/backbones/test_openclip.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ASIDE)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]
