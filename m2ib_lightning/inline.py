"""Pictures, colours and numbers as text, so that a page is one file and loads nothing."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def bytes_text(values: NDArray[np.generic]) -> str:
    """Values in 0..255, rounded, as the base64 of their bytes."""
    return base64.b64encode(np.rint(values).astype(np.uint8).tobytes()).decode("ascii")


def number(value: float) -> float | None:
    """Four digits of it, None for what JSON has no number for."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def small_address(picture: Image.Image, side: int, quality: int = 82) -> str:
    """A data URI in WebP, the longer side of the picture at most `side` pixels."""
    small, file = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((side, side))
    small.save(file, "WEBP", quality=quality)
    return _address("webp", file)


def png_address(drawn: Image.Image | Figure) -> str:
    """A data URI in PNG."""
    file = io.BytesIO()
    if isinstance(drawn, Image.Image):
        drawn.save(file, format="PNG")
    else:
        drawn.savefig(file, format="png")
    return _address("png", file)


def _address(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
