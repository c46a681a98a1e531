"""What a loss term sees of a tower, made by hand or at random."""

from __future__ import annotations

from typing import Any

import torch

from m2ib_lightning.losses import Bottlenecked


def tower(
    modality: str = "image", grid: tuple[int, int] | None = (2, 3), seed: int = 0, **changes: Any
) -> Bottlenecked:
    """Two pairs, four noise samples; the first token is no content, the last ones of a text are padding in one."""
    generator = torch.Generator().manual_seed(seed)
    tokens = 1 + (grid[0] * grid[1] if grid else 5)
    alpha = torch.randn(2, tokens, 4, generator=generator)
    is_open = torch.ones(2, tokens, dtype=torch.bool)
    if grid is None:
        is_open[1, -2:] = False
    content = is_open.clone()
    content[:, 0] = False
    made: dict[str, Any] = {
        "modality": modality,
        "alpha": alpha,
        "lambda_": alpha.sigmoid(),
        "capacity": torch.rand(2, tokens, 4, generator=generator),
        "open": is_open,
        "content": content,
        "grid": grid,
        "embedding": torch.randn(4, 2, 8, generator=generator),
        "clean": torch.randn(2, 8, generator=generator),
        "other": torch.randn(2, 8, generator=generator),
    }
    made["target"] = torch.nn.functional.normalize(made["other"], dim=-1)
    return Bottlenecked(**(made | changes))
