import csv

import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.nn import functional as F

from m2ib_lightning.callbacks import ConfidenceDropLogger
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import M2IB
from m2ib_lightning.types import Pair


def test_it_is_the_mean_over_pairs_of_what_the_multiplied_images_lose(tmp_path):
    data, method = PairDataModule(scenes=3, batch_size=2), M2IB("embedded", noise_samples=2)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=CSVLogger(tmp_path), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=8, log_every_n_steps=1, callbacks=[ConfidenceDropLogger()],
    )  # fmt: skip
    trainer.fit(method, data)
    found = logged(tmp_path)
    drops = []
    for a, pair in zip(method.attributions(), [p for batch in data.train_dataloader() for p in batch], strict=True):
        heat = a.heatmap((pair.image.height, pair.image.width))[..., None]
        image = Image.fromarray((np.asarray(pair.image) * heat).round().astype(np.uint8))
        batch = method.backbone.preprocess_pairs([Pair("", image, pair.text)])
        score = F.cosine_similarity(*(method.backbone.embed(m, batch) for m in ("image", "text")))
        drops.append(100 * max(0.0, a.score - float(score)))
    # Its heat map has 256 levels; here it has all.
    assert found == pytest.approx(np.mean(drops), abs=0.2)


def logged(folder) -> float:
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        (value,) = [row["confidence_drop/image"] for row in csv.DictReader(file) if row["confidence_drop/image"]]
    return float(value)


def test_a_fit_of_the_text_alone_has_none(tmp_path):
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, callbacks=[ConfidenceDropLogger()],
    )  # fmt: skip
    trainer.fit(M2IB("embedded", modalities=["text"], noise_samples=2), PairDataModule(scenes=1))
    assert "confidence_drop/image" not in trainer.callback_metrics
