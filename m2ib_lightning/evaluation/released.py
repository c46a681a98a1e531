"""What the released scripts of M2IB compute for confidence drop and increase, faults included, for published tables.

`get_metrics` of `scripts/eval.py` in the repository YingWANGG/M2IB, with `metrics/cam_mult_image.py` of
pytorch-grad-cam:

- the image map (H, W), brought to 0..1, is passed without a batch axis; the library takes `cams[0]`, its first row,
  which then multiplies every row of the picture;
- BOS and EOS are stripped from the text, of the clean text as well, whose cosine therefore is another one;
- the text map is binarised above its median, and token ids, not embeddings, are multiplied by it: a hidden token
  becomes token 0.
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.types import PairBatch


def first_rows(maps: Tensor) -> Tensor:
    """Maps (B, H, W), each brought to 0..1 and with its first row in place of all; 0 where a map is constant."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
    return repeat(scaled[:, 0], "b w -> b h w", h=maps.shape[1])


@torch.no_grad()
def stripped_scores(objective: Objective, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of the texts without special tokens, as they are and with ids hidden, (B,) each.

    Args:
        objective: The objective of the text.
        maps: The raw maps, (B, L).

    Returns:
        nan for a text of special tokens only.
    """
    clean, hidden = [], []
    for index, content in enumerate(objective.content):
        batch, values = stripped(objective.batch, index, content), maps[index, content]
        shown = values > _median(values)
        clean.append(_cosine(objective, batch, index))
        hidden.append(_cosine(objective, batch._replace(input_ids=batch.input_ids * shown), index))
    return torch.stack(clean), torch.stack(hidden)


def stripped(batch: PairBatch, index: int, content: Tensor) -> PairBatch:
    """One pair of a batch, its text without special tokens."""
    one = batch.keep([index])
    places = content.nonzero().flatten().tolist()
    return one._replace(
        input_ids=one.input_ids[:, content],
        attention_mask=one.attention_mask[:, content],
        tokens=(tuple(one.tokens[0][i] for i in places),),
        spans=(tuple(one.spans[0][i] for i in places),),
    )


def _median(values: Tensor) -> Tensor:
    # As numpy's percentile: the mean of the two in the middle of an even number.
    return values.float().quantile(0.5) if len(values) else values.new_zeros(())


def _cosine(objective: Objective, batch: PairBatch, index: int) -> Tensor:
    if not batch.input_ids.numel():
        return objective.clean.new_full((), torch.nan)
    hidden = objective.tower.prefix(batch, "embeddings")
    embedding = objective.tower.finish(hidden, "embeddings").float()
    return F.cosine_similarity(embedding[0], objective.target[index], dim=-1)
