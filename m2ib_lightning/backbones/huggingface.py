"""What the families of Hugging Face transformers have in common: a model and its processor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn

from m2ib_lightning.backbones.base import Backbone, Tower, check_texts, unnamed_pairs
from m2ib_lightning.backbones.processing import read_images, read_texts
from m2ib_lightning.backbones.view import output_size
from m2ib_lightning.contracts import called, check_towers
from m2ib_lightning.types import Box, PairBatch


class HuggingFaceBackbone(Backbone):
    """A model of transformers with its processor. A family implements `towers`.

    Args:
        model: The module of the library that holds the weights.
        processor: The checkpoint's processor, which has an `image_processor` and a `tokenizer`.
        name: The name that the user gave for it.
        image_size: (H, W) in pixels to read pictures at; the processor's own by default.

    Attributes:
        architectures: The classes of transformers whose checkpoints are read, each by its own class; by `AutoModel`
            whatever their class if none is named.
        resized: Whether the user asked for an image size.

    Raises:
        ValueError: The model cannot read pictures of that size, or a weight is not finite.
    """

    architectures: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: nn.Module, processor: Any, name: str, image_size: tuple[int, int] | None = None) -> None:
        super().__init__(model, name)
        self.processor, self.resized = processor, image_size is not None
        self.image_size = image_size or self.default_image_size()
        self.image, self.text = check_towers(self, called(self, self.towers, model))

    @abstractmethod
    def towers(self, model: Any) -> tuple[Tower, Tower]:
        """The image and the text tower."""

    def default_image_size(self) -> tuple[int, int]:
        """(H, W) that the processor gives; the model's if that depends on the picture."""
        config: Any = self.model.config
        side = config.vision_config.image_size
        return output_size(self.processor.image_processor) or (side, side)

    def text_limit(self, positions: int) -> int:
        """The most tokens to read: as many as there are positions, unless tokenizer or processor say less."""
        said = getattr(self.processor, "text_kwargs", None) or {}
        return min(positions, self.processor.tokenizer.model_max_length, said.get("max_length", positions))

    def read(self, images: Sequence[Image.Image], texts: Sequence[str]) -> PairBatch:
        """Resize, crop and normalise the images; cut the texts into tokens, up to the model's limit."""
        check_texts(images, texts)
        pixels, views = self.read_images(images)
        read = read_texts(self.processor.tokenizer, texts, self.text.length, self.name, self.text.reads_padding)
        return PairBatch(
            pixel_values=pixels,
            views=views,
            pairs=unnamed_pairs(images, texts),
            **read._asdict(),
        )

    def read_images(self, images: Sequence[Image.Image]) -> tuple[Tensor, tuple[Box, ...]]:
        """(B, 3, H, W), and what is seen of each picture."""
        return read_images(self.processor.image_processor, images, self.image_size if self.resized else None)
