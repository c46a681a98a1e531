"""NIB: integrated gradients on the hidden states of one block.

Source: Zhu et al., "Narrowing Information Bottleneck Theory for Multimodal Image-Text Representations
Interpretability", ICLR 2025 (arXiv 2502.14889), and its released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.checks import check_at_least
from m2ib_lightning.methods.baselines.base import LayerBaseline
from m2ib_lightning.methods.objective import Objective
from m2ib_lightning.methods.priors import default_layer
from m2ib_lightning.types import MODALITIES, Layer, Modality


class NIB(LayerBaseline):
    """Sums the gradient along the straight line from zero to a block's hidden states.

    Per token: sum over channels of h / n * sum over i = 1..n of d cos / d h at h i / n. Negative values speak against
    the pair. The released code's "layer 9" is the input of block 9, the output of block 8 here; and its text maps
    explain the mean over the images of a batch, these the pair's own image.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.
        image_layer: Block whose output is explained, 0-based, or "embeddings"; about 3/4 of the depth by default.
        text_layer: The block of the text's tower, likewise.
        steps: n, at least 1.

    Raises:
        ValueError: `steps` is too small.
    """

    unit = "cos"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        image_layer: Layer | None = None,
        text_layer: Layer | None = None,
        steps: int = 10,
    ) -> None:
        super().__init__(backbone, modalities, image_layer, text_layer)
        check_at_least("steps", steps, 1)
        self.steps = steps

    def default_layer(self, depth: int) -> int:
        """The released 9 of 12, counted as the input of a block: one before M2IB's."""
        return max(0, int(default_layer("image", depth, "unit")) - 1)

    def relevance(self, objective: Objective) -> Tensor:
        """Integrated gradients of the hidden states, all steps in one pass; (b, gh, gw) or (b, l)."""
        layer = self.layer_of(objective.modality)
        hidden = objective.states(layer)
        line = torch.linspace(1 / self.steps, 1, self.steps, device=hidden.states.device)
        points = (rearrange(line, "k -> k 1 1 1") * hidden.states).requires_grad_()
        score = objective.of_states(points, hidden, layer)
        (gradient,) = torch.autograd.grad(score.sum(), points)
        mean = reduce(gradient, "k b l d -> b l d", "mean")
        return objective.token_map(reduce(hidden.states * mean, "b l d -> b l", "sum"))
