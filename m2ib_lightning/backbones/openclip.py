"""Models of open_clip (the `open_clip` extra), by the names that `load_openclip` lists."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from m2ib_lightning.backbones.base import Backbone, check_texts, unnamed_pairs
from m2ib_lightning.backbones.openclip_image import image_tower
from m2ib_lightning.backbones.openclip_text import text_tower
from m2ib_lightning.backbones.processing import Texts, warn_of_cuts
from m2ib_lightning.backbones.tokens import match_spans, shown_token
from m2ib_lightning.backbones.view import trim, within
from m2ib_lightning.errors import MissingExtra
from m2ib_lightning.types import Box, PairBatch

PREFIX = "open_clip:"


class OpenClipBackbone(Backbone):
    """A model of open_clip with its transform and its tokenizer.

    Args:
        model: The module of the library that holds the weights.
        transform: Turns a picture into pixels, as the model was evaluated.
        tokenizer: The library's, for this model.
        name: The name that the user gave for it.
    """

    def __init__(self, model: Any, transform: Any, tokenizer: Any, name: str) -> None:
        super().__init__(model, name)
        self.transform, self.tokenizer = transform, tokenizer
        self.settings = SimpleNamespace(**model.visual.preprocess_cfg)
        size = self.settings.size
        self.image_size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.image = image_tower(model.visual, name, self.image_size, self.device)
        text = text_tower(model)
        if hasattr(tokenizer, "sot_token_id"):
            text.prefix_tokens = 1  # BOS
        self.text, self.limit = text, min(text.limit, tokenizer.context_length or text.limit)

    def read(self, images: Sequence[Image.Image], texts: Sequence[str]) -> PairBatch:
        """Resize, crop and normalise the images; cut the texts into tokens, up to the model's limit."""
        check_texts(images, texts)
        trimmed = [trim(image.convert("RGB"), SimpleNamespace(do_center_crop=True)) for image in images]
        if self.settings.resize_mode != "shortest":
            trimmed = [(image.convert("RGB"), (0.0, 0.0, 1.0, 1.0)) for image in images]
        read = self._read_texts(texts)
        return PairBatch(
            pixel_values=torch.stack([self.transform(image) for image, _ in trimmed]),
            views=tuple(within(kept, self._view(*image.size)) for image, kept in trimmed),
            pairs=unnamed_pairs(images, texts),
            **read._asdict(),
        )

    def _view(self, width: int, height: int) -> Box:
        """What is seen of a picture, to a pixel's rounding: crops are centred; padding reaches beyond 0..1."""
        if self.settings.resize_mode == "squash":
            return (0.0, 0.0, 1.0, 1.0)
        pick = max if self.settings.resize_mode == "shortest" else min
        scale = pick(self.image_size[0] / height, self.image_size[1] / width)
        half = (self.image_size[1] / (width * scale) / 2, self.image_size[0] / (height * scale) / 2)
        return (0.5 - half[0], 0.5 - half[1], 0.5 + half[0], 0.5 + half[1])

    def _read_texts(self, texts: Sequence[str]) -> Texts:
        """The library's own ids, and where their tokens are in the text."""
        ids = self.tokenizer(list(texts), context_length=self.limit)
        counts = [self._count(text) for text in texts]
        truncated = [count > self.limit for count in counts]
        warn_of_cuts(texts, truncated, self.limit, self.name)
        lengths = torch.tensor([min(count, self.limit) for count in counts])
        if self.text.reads_padding:
            lengths[:] = ids.shape[1]
        ids = ids[:, : int(lengths.max())]
        mask = torch.arange(ids.shape[1]) < rearrange(lengths, "b -> b 1")
        spans, tokens = [], []
        for text, row, length, count in zip(texts, ids.tolist(), lengths.tolist(), counts, strict=True):
            pieces = [self._piece(i) if place < count else "" for place, i in enumerate(row[:length])]
            where = match_spans(pieces, text)
            spans.append(tuple(where))
            tokens.append(tuple(shown_token(self._entry(i), text[slice(*s)]) for i, s in zip(row, where, strict=False)))
        return Texts(ids, mask, tuple(tokens), tuple(spans), tuple(truncated))

    def _count(self, text: str) -> int:
        """Tokens of the whole text, special ones included."""
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(text)) + 2
        return len(self.tokenizer.tokenizer(self.tokenizer.clean_fn(text))["input_ids"])

    def _piece(self, token: int) -> str:
        """The characters of a token, "" for special ones."""
        inner = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        if token in inner.all_special_ids and token != getattr(inner, "unk_token_id", None):
            return ""
        return str(inner.decode([token])).strip().removeprefix("##")

    def _entry(self, token: int) -> str:
        """The token in its vocabulary."""
        if hasattr(self.tokenizer, "decoder"):
            return str(self.tokenizer.decoder[token])
        return str(self.tokenizer.tokenizer.convert_ids_to_tokens(token))


def load_openclip(name: str, image_size: tuple[int, int] | None = None) -> OpenClipBackbone:
    """A model of open_clip by its name, in float32.

    Args:
        name: "open_clip:NAME/TAG" of its list of pretrained models, "open_clip:NAME//path/to/weights.pt",
            "open_clip:hf-hub:ORGANISATION/MODEL" or "open_clip:local-dir:/path/to/folder".
        image_size: (H, W) to read pictures at; the library interpolates the model's positions.

    Raises:
        MissingExtra: open_clip is not installed, or its torchvision was made for another torch.
        ValueError: It has no such model, or one of another kind.
    """
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise MissingExtra(
            f"Expected open_clip to be installed for {name!r} but it cannot be imported ({error}). "
            "Remedy: pip install torch torchvision 'm2ib_lightning[open_clip]', all in one command."
        ) from error
    wanted = name.removeprefix(PREFIX)
    architecture, _, weights = (wanted, "", "") if ":" in wanted.split("/")[0] else wanted.partition("/")
    try:
        model, transform = open_clip.create_model_from_pretrained(
            architecture, pretrained=weights or None, force_image_size=image_size
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"Expected a model at {name!r} but open_clip could not read one ({reason}). "
            "Remedy: name one of open_clip.list_pretrained() as 'open_clip:NAME/TAG', or a local file or folder."
        ) from error
    return OpenClipBackbone(model, transform, tokenizer, name)
