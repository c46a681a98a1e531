"""Whether both halves of a pair still agree when both are noisy."""

from __future__ import annotations

from einops import reduce
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.losses.base import Bottlenecked, JointTerm


def agreement(image: Tensor, text: Tensor) -> Tensor:
    """Cosine similarity of the noisy embeddings of both modalities, sample by sample, meaned over the noise.

    mean_k cos( f_image(z_k), f_text(z_k) ). M2IB fits each bottleneck against the other modality's clean embedding
    (equation 5); here both are active at once, so that each keeps what the other one keeps.

    Args:
        image: (K, B, E) embeddings of the image's noisy samples.
        text: (K, B, E) the same of the text.

    Returns:
        (B,) in [-1, 1].
    """
    return reduce(F.cosine_similarity(image.float(), text.float(), dim=-1), "k b -> b", "mean")


class Agreement(JointTerm):
    """`agreement`, which is maximised."""

    maximised = True

    def forward(self, image: Bottlenecked, text: Bottlenecked) -> Tensor:
        """Cosine similarity of what comes through both bottlenecks, (B,)."""
        return agreement(image.embedding, text.embedding)
