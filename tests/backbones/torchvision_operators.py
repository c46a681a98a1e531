"""A pytest plugin: names the operators that torchvision's Python code expects of its C++ library.

That library does not load beside a torch built for processors alone. No model of open_clip calls these operators.
"""

import torch

_libraries = []  # what they define is forgotten with them


def pytest_configure() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
