"""One number for a whole fit, to compare settings by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.methods import M2IB
from m2ib_lightning.types import Modality


class GatheredLogger(Callback):
    """Logs `gathered`, and `gathered/image` and `gathered/text` whose mean it is, when a fit ends; lower is better.

    How few patches and words hold the maps, where the model keeps its similarity; see `gathered`. A beta that is too
    small spreads the maps, one that is too large loses the similarity, and both cost.

    Args:
        keep: The least share of the clean similarity that must be left through a bottleneck, in 0..1.
    """

    def __init__(self, keep: float = 0.9) -> None:
        self.keep = keep

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the values of the pairs of the fit."""
        if not isinstance(pl_module, M2IB):
            return
        results = pl_module.attributions()
        found = {f"gathered/{modality}": gathered(results, modality, self.keep) for modality in pl_module.modalities}
        found["gathered"] = float(np.mean(list(found.values())))
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.current_epoch)


def gathered(results: Sequence[Attribution], modality: Modality, keep: float = 0.9) -> float:
    """The smallest share of patches or tokens that holds nine tenths of a map, mean over pairs.

    Where less than `keep` of the similarity is left, it is 1 + what is missing: worse than any map, and a search finds
    its way back. So is what has no bottleneck, of which nothing is known.

    Args:
        results: The results of one fit.
        modality: Which maps; special tokens are left out.
        keep: The least share of the clean similarity that must be left through the bottleneck, mean over pairs.

    Returns:
        Above 0, and at most 1 where the similarity is left.
    """
    clean = sum(a.score for a in results)
    left = float(np.nansum([a.score_through(modality) for a in results])) / clean if clean > 0 else 0.0
    return float(np.mean([_share(a, modality) for a in results])) if left >= keep else 1 + keep - left


def _share(a: Attribution, modality: Modality) -> float:
    if a.map_of(modality) is None:  # of a loss that is not finite
        return 1.0
    falling = np.sort(a.content_of(modality))[::-1].cumsum()
    return (int((falling < 0.9 * falling[-1]).sum()) + 1) / falling.size
