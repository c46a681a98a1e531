"""A pytest plugin: names the operators that torchvision's Python code expects of its C++ library, where that is amiss.

The library does not load beside a torch built for processors alone. No model of open_clip calls these operators.
"""

import contextlib
from importlib.util import find_spec
from pathlib import Path

import torch

_libraries = []  # what they define is forgotten with them


def pytest_configure() -> None:
    if _loads():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def _loads() -> bool:
    """Whether torchvision's C++ library, which defines these operators itself, can be loaded."""
    found = find_spec("torchvision")
    libraries = list(Path(found.origin).parent.glob("_C*.so")) if found and found.origin else []
    with contextlib.suppress(OSError, RuntimeError):
        for library in libraries:
            torch.ops.load_library(library)
        return bool(libraries)
    return False
