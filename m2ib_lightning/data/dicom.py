"""DICOM pictures as radiologists see them. Needs `pip install m2ib_lightning[dicom]`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning.errors import MissingExtra


def read_dicom(
    file: str | Path | io.BytesIO, check_size: Callable[[tuple[int, int]], None] = lambda size: None
) -> Image.Image:
    """The first frame of a DICOM file, 8-bit grey ("L") or "RGB".

    Stored values become real ones (rescale slope and intercept, or the modality table), and these grey levels by the
    file's first window or VOI table (PS3.3 C.11.2.1). A file with neither is shown from its smallest to its largest
    value. MONOCHROME1, where high values are dark, is inverted.

    Args:
        file: Its path, or its bytes.
        check_size: Called with (width, height) before any pixel is decoded, to refuse what is too large.

    Raises:
        MissingExtra: pydicom, or the decoder of the file's compression, is not installed.
        Exception: Whatever pydicom says of a broken file.
    """
    try:
        import pydicom
        from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
        from pydicom.pixels.utils import pixel_array
    except ImportError as problem:
        raise MissingExtra(
            "Expected pydicom to be installed, which reads DICOM files. Remedy: pip install m2ib_lightning[dicom]"
        ) from problem
    data = pydicom.dcmread(file)
    check_size((int(data.Columns), int(data.Rows)))
    kind = data.PhotometricInterpretation
    values = pixel_array(data, index=0)  # YBR becomes RGB here
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, data)
    if values.ndim == 3:
        return Image.fromarray(_stretch(values, 0, np.iinfo(values.dtype).max))
    real = apply_modality_lut(values, data)
    grey = _windowed(real.astype(np.float64), data) if "VOILUTSequence" not in data else _by_table(real, data)
    return Image.fromarray(255 - grey if kind == "MONOCHROME1" else grey)


def _windowed(values: NDArray[np.float64], data: Any) -> NDArray[np.uint8]:
    """(H, W) grey levels of real values by the file's first window."""
    if "WindowCenter" not in data or "WindowWidth" not in data:
        return _stretch(values, values.min(), values.max())
    centre, width = _first(data.WindowCenter), _first(data.WindowWidth)
    function = data.get("VOILUTFunction", "LINEAR")
    if function == "SIGMOID":
        # 1 / (1 + exp(-4 x)) of the standard is (1 + tanh(2 x)) / 2, which never overflows.
        return _stretch(np.tanh(2 * (values - centre) / width), -1, 1)
    if function == "LINEAR":  # of widths from 1, where 1 is a threshold
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return _stretch(values, centre - width / 2, centre + width / 2)


def _by_table(values: NDArray[Any], data: Any) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_voi_lut

    bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
    return _stretch(apply_voi_lut(values, data), 0, 2**bits - 1)


def _stretch(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Low and below become 0, high and above 255."""
    scale = (values.astype(np.float64) - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(scale.clip(0, 1) * 255).astype(np.uint8)


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
