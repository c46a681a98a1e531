"""Open a page in the browser: drop a picture, type a caption, see why they match.

It is served to this machine alone and loads nothing from elsewhere.
"""

from __future__ import annotations

import importlib.util
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.methods import AttributionMethod


class ModelOfConfig(ActionConfigFile):
    """Reads a run's configuration and takes its `model` alone."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply the model of the file."""
        if Path(values).is_file():
            given = yaml.safe_load(Path(values).read_text("utf-8")) or {}
            values = yaml.safe_dump({key: value for key, value in given.items() if key == "model"})
        super().__call__(parser, cfg, values, option_string)


def add_arguments(parser: OneLineParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("-c", "--config", action=ModelOfConfig, help="A run's YAML, whose `model` is taken.")
    parser.add_argument("--port", type=int | None, default=None, help="The first free one from 7860 by default.")
    parser.add_argument("--open", type=bool, default=True, help="Whether the browser is opened.")
    parser.add_argument("--share", type=bool, default=False, help="Whether Gradio makes a public address as well.")
    parser.add_lightning_class_args(AttributionMethod, "model", subclass_mode=True)
    parser.set_defaults({"model": {"class_path": "m2ib_lightning.M2IB"}})


def run(parser: OneLineParser, config: Namespace) -> None:
    """Serve until the command is stopped.

    Raises:
        ValueError: Gradio is not installed, or the method is another one.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('Expected gradio but it is not installed. Remedy: pip install "m2ib_lightning[app]".')
    from m2ib_lightning.app.explaining import Explainer
    from m2ib_lightning.app.serving import serve

    blocks = serve(Explainer(partial(parser.make_m2ib, config)), config.port, config.open, config.share)
    print(f"{blocks.local_url}  (Ctrl-C stops it)", flush=True)
    if blocks.share_url:
        print(blocks.share_url, flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        blocks.close(verbose=False)
