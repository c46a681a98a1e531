"""One number for a whole fit, to compare settings by: how much the model loses with only the map's part of an image."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch.nn import functional as F

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.methods import M2IB
from m2ib_lightning.metrics import confidence_drop
from m2ib_lightning.types import Pair


class ConfidenceDropLogger(Callback):
    """Logs `confidence_drop/image` when a fit ends: the mean over pairs of 100 max(0, o - s), lower is better.

    o is the cosine of the clean pair, s that of the text with the image multiplied by its heat map in [0, 1]. A map
    of ones loses nothing: read it together with `image/compression`.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure how much the model loses with the maps of the fit, and log the mean."""
        if not isinstance(pl_module, M2IB) or "image" not in pl_module.modalities:
            return
        results, backbone = iter(pl_module.attributions()), pl_module.prepare()
        drops = []
        for fit in pl_module.mask_fits:
            pairs = [_masked(pair, next(results)) for pair in fit.batch.pairs]
            masked = backbone.embed("image", backbone.preprocess_pairs(pairs)).float()
            drops.append(confidence_drop(fit.score, F.cosine_similarity(masked, fit.clean["text"])))
        value = float(torch.cat(drops).mean())
        for logger in trainer.loggers:
            logger.log_metrics({"confidence_drop/image": value}, step=trainer.current_epoch)


def _masked(pair: Pair, attribution: Attribution) -> Pair:
    """The pair with its image multiplied by its heat map."""
    heat = Image.fromarray((255 * attribution.heatmap((pair.image.height, pair.image.width))).round().astype("uint8"))
    return pair._replace(image=Image.composite(pair.image.convert("RGB"), Image.new("RGB", pair.image.size), heat))
