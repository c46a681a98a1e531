"""The whole suite runs with no network and no account."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="m2ib-cache-")
