"""The two towers of a model beside each other on one GPU, neither of which fills it alone with a few pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from m2ib_lightning.types import MODALITIES, Modality

Found = TypeVar("Found")


def one_by_one(run: Callable[[Modality], Found], towers: Iterable[Modality]) -> dict[Modality, Found]:
    """What a function finds for each tower."""
    return {modality: run(modality) for modality in towers}


class Streams:
    """`one_by_one` with each tower in a CUDA stream of its own; gradients go back through the same streams.

    Recorded as a graph, the towers are two branches of it, which a GPU runs at once.

    Args:
        device: Where the towers are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = torch.get_device_module(device)
        self.streams = {modality: self.device.Stream() for modality in MODALITIES}

    def __call__(self, run: Callable[[Modality], Found], towers: Iterable[Modality]) -> dict[Modality, Found]:
        """What a function finds for each tower; tensors in tuples may be used in the current stream afterwards."""
        here, found = self.device.current_stream(), dict[Modality, Found]()
        for modality in towers:
            self.streams[modality].wait_stream(here)
            with self.device.stream(self.streams[modality]):
                found[modality] = run(modality)
        for modality, values in found.items():
            here.wait_stream(self.streams[modality])
            _keep_for(here, values)
        return found


def _keep_for(stream: Any, values: Any) -> None:
    """Let memory that another stream has made be used again only when this one has read it."""
    if isinstance(values, Tensor) and values.is_cuda:
        values.record_stream(stream)
    elif isinstance(values, tuple):
        for value in values:
            _keep_for(stream, value)
