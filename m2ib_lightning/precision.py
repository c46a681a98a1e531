"""What a run computes in, by the device that it computes on."""

from __future__ import annotations

from typing import Any, Literal

import torch

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Float32, or towers in bfloat16 or float16; masks, noise, capacity, the optimiser and scores are in float32 always."""


def precision_on(accelerator: Any) -> Precision:
    """What a run computes in unless the user says: bfloat16 on a GPU that has it, float32 elsewhere.

    Args:
        accelerator: What the Trainer computes on, as of `--trainer.accelerator`.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
