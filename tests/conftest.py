"""The whole suite runs with no network and no account."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="m2ib-cache-")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a core for each worker, and so for the programs that tests start
