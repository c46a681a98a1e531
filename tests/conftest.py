"""The whole suite runs with no network and no account."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
# Matplotlib's list of the fonts here, which takes it seconds to make, is no cache of ours and stays where it is.
CACHES = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
os.environ.setdefault("MPLCONFIGDIR", os.path.join(CACHES, "matplotlib"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="m2ib-cache-")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a core for each worker, and so for the programs that tests start
