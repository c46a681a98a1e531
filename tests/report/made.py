"""Attributions made by hand."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from m2ib_lightning import Attribution


def attribution(text: str = "a photo of a cat", **changes: Any) -> Attribution:
    """Each word is a token; the n-th has the value n, BOS 0 and EOS 0. The map is highest in its upper right cell."""
    spans = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
    image_map = np.zeros((4, 4), np.float32)
    image_map[0, 3] = 50
    made: dict[str, Any] = {
        "id": "pair-1",
        "text": text,
        "image_map": image_map,
        "text_map": np.array([0, *range(1, len(spans) + 1), 0], np.float32),
        "tokens": ["<bos>", *(text[start:end] for start, end in spans), "<eos>"],
        "special": np.array([True, *[False] * len(spans), True]),
        "spans": [(0, 0), *spans, (0, 0)],
        "score": 0.25,
        "image_score": 0.5,
        "text_score": 0.75,
        "steps": 10,
        "stop_reason": "max_steps",
        "settings": {"thresholds": {"nats": 0.5}},  # a few nats are enough here: nothing speaks against it
    }
    return Attribution(**(made | changes))
