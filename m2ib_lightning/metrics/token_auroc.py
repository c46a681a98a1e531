"""How well the text map ranks the true tokens above the others."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric, check_map, left_out


def token_auroc(saliency: Tensor, truth: Tensor, content: Tensor) -> Tensor:
    """Probability that a true token has a higher value than another one, ties half; higher is better.

    The area under the ROC curve, as the Mann-Whitney statistic, over content tokens.

    Args:
        saliency: The maps, (..., L).
        truth: The tokens that should be found, (..., L) bool.
        content: (..., L) bool, false for special tokens, which are left out.

    Returns:
        (...) in 0..1, 1/2 for a constant map, nan where all tokens or none are true.

    >>> import torch
    >>> truth, content = torch.tensor([False, False, True]), torch.tensor([False, True, True])
    >>> token_auroc(torch.tensor([9.0, 1.0, 2.0]), truth, content)
    tensor(1.)
    """
    check_map(saliency, truth)
    positive, negative = truth & content, ~truth & content
    pairs = rearrange(positive, "... p -> ... p 1") & rearrange(negative, "... n -> ... 1 n")
    a, b = rearrange(saliency, "... p -> ... p 1"), rearrange(saliency, "... n -> ... 1 n")
    wins = (((a > b).float() + 0.5 * (a == b)) * pairs).sum((-2, -1))
    count = pairs.sum((-2, -1))
    return left_out(wins / count.clamp(min=1), count == 0)


class TokenAUROC(PairMetric):
    """Area under the ROC curve of the text map for the naming words; higher is better.

    Of words, each with the mean of its tokens: a tokenizer that splits a name makes it neither many nor large.
    """

    function = token_auroc
    takes = ("words", "named")
    modality = "text"

    def values_of(self, *inputs: Tensor) -> Tensor:
        """The function, of words, none of which is special."""
        words, named = inputs
        return token_auroc(words, named, torch.ones_like(named))
