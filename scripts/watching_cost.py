#!/usr/bin/env python
"""Measure what watching the masks costs: the same fit with and without `MaskLogger`, in turn.

    python scripts/watching_cost.py                          # eight pairs, ViT-B/32 shapes, random weights
    python scripts/watching_cost.py --noise_samples 2 --repeats 3 --logger wandb

A row holds the seconds of both fits and those that the callback took of the watched one; the last row is the medians.
Pictures, words, histograms, animations and the table are all made, at the default frequency. On a machine that others
use as well the callback's own seconds are the better measure: they and the rest of the same fit are slowed alike.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from on_scenes import keep
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from m2ib_lightning import M2IB, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.load import EMBEDDED
from m2ib_lightning.callbacks import MaskLogger
from m2ib_lightning.data import PairDataModule


class TimedMaskLogger(MaskLogger):
    """Knows how long it took."""

    taken = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.clock():
            super().on_train_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.clock():
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.clock():
            super().on_train_end(trainer, pl_module)

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.taken += time.perf_counter() - start


def random_vit_b32() -> Backbone:
    """A CLIP of ViT-B/32 shapes that has learned nothing; its speed is that of any other."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with tempfile.TemporaryDirectory() as folder:
        CLIPModel(CLIPConfig(text_config=special)).save_pretrained(folder)
        CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder)
        return load_backbone(folder)


def seconds(backbone: Backbone, options: argparse.Namespace, watched: bool) -> tuple[float, float]:
    """Of one fit, its loggers opened before and its files written within; and of the callback alone."""
    watcher = TimedMaskLogger()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=options.steps, callbacks=[watcher] if watched else [], default_root_dir=folder,
            logger=new_logger(options.logger, folder), log_every_n_steps=1, enable_checkpointing=False, devices=1,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        # With the layers of the calibrated setting; its priors would be measured first, for minutes.
        method = M2IB(
            backbone, prior="unit", image_layer=4, text_layer="embeddings", noise_samples=options.noise_samples
        )
        start = time.perf_counter()
        trainer.fit(method, PairDataModule(scenes=options.pairs, batch_size=options.pairs))
        taken = time.perf_counter() - start
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
        return taken, watcher.taken


def new_logger(kind: str, folder: str) -> Logger | bool:
    loggers: dict[str, type[Logger]] = {"wandb": WandbLogger, "tensorboard": TensorBoardLogger}
    if kind == "none":
        return False
    logger = loggers[kind](save_dir=folder, **({"offline": True} if kind == "wandb" else {}))
    _ = logger.experiment
    return logger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--noise_samples", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--logger", choices=("none", "wandb", "tensorboard"), default="none")
    parser.add_argument("--model", type=Path, help="a checkpoint's folder instead")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    parser.add_argument("--output", type=Path, default=Path("outputs/watching"), help="folder for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")

    backbone = load_backbone(str(options.model)) if options.model else random_vit_b32()
    rows = []
    for i in range(options.repeats):
        # The order changes every time, so that a machine that grows slower or faster favours neither.
        taken = {watched: seconds(backbone, options, watched) for watched in ((False, True), (True, False))[i % 2]}
        (alone, _), (total, watching) = taken[False], taken[True]
        ratio, share = total / alone, watching / (total - watching)
        rows.append({"alone": alone, "watched": total, "watching": watching, "ratio": ratio, "of the rest": share})
        print(f"alone {alone:.2f} s; watched {total:.2f} s, of which watching {watching:.2f} s", flush=True)
    keep([*rows, {head: median(row[head] for row in rows) for head in rows[0]}], options)


if __name__ == "__main__":
    main()
