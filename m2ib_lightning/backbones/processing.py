"""Pictures and texts as Hugging Face processors read them: what is seen of a picture, where a token is in its text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from m2ib_lightning.backbones.tokens import match_spans, shown_token, tidy_spans
from m2ib_lightning.backbones.view import crop_to_ratio, trim, view_of, within
from m2ib_lightning.types import Box


class Texts(NamedTuple):
    """Texts as a model reads them; the fields are those of `PairBatch`."""

    input_ids: Tensor
    attention_mask: Tensor
    tokens: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    truncated: tuple[bool, ...]


def read_images(
    processor: Any, images: Sequence[Image.Image], size: tuple[int, int] | None = None
) -> tuple[Tensor, tuple[Box, ...]]:
    """Pixels of pictures, and what a model sees of each.

    Args:
        processor: The checkpoint's image processor.
        images: Pictures of any mode and size.
        size: (H, W) to read them at instead of the processor's own size. Where the processor crops, a picture is cut to
            these proportions around its centre and resized; where it does not, the whole picture is resized to them.

    Returns:
        (B, 3, H, W) and a box per picture, in fractions of it.
    """
    pictures = [image.convert("RGB") for image in images]
    crops = bool(getattr(processor, "do_center_crop", False))
    if size is None:
        kept = [trim(picture, processor) for picture in pictures]
        pixels = processor(images=[picture for picture, _ in kept], return_tensors="pt")["pixel_values"]
        return pixels, tuple(within(box, view_of(processor, *picture.size)) for picture, box in kept)
    kept = [crop_to_ratio(picture, size) if crops else (picture, (0.0, 0.0, 1.0, 1.0)) for picture in pictures]
    exact = {"height": size[0], "width": size[1]}
    pixels = processor(
        images=[picture for picture, _ in kept], return_tensors="pt", do_resize=True, size=exact, do_center_crop=False
    )["pixel_values"]
    return pixels, tuple(box for _, box in kept)


def read_texts(tokenizer: Any, texts: Sequence[str], limit: int, name: str, reads_padding: bool = False) -> Texts:
    """Tokens of texts, up to a limit.

    Args:
        tokenizer: The tokenizer that the checkpoint came with.
        texts: The captions, none of which is empty.
        limit: The most tokens that the model reads, special ones included.
        name: The model's name, for the warning about texts that are cut.
        reads_padding: Whether the model was trained to read texts padded to the limit, on the side that its tokenizer
            says, with the padding attended to; else texts are padded on the right to the longest and padding is masked.
    """
    arguments: dict[str, Any] = {"truncation": True, "max_length": limit, "return_tensors": "pt"}
    arguments |= {"padding": "max_length"} if reads_padding else {"padding": True, "padding_side": "right"}
    read = _read_fast if tokenizer.is_fast else _read_slow
    ids, mask, spans, truncated = read(tokenizer, texts, arguments)
    warn_of_cuts(texts, truncated, limit, name)
    if reads_padding:
        mask = torch.ones_like(mask)
    longest = int(mask.sum(1).max())
    ids, mask = ids[:, :longest], mask[:, :longest]
    rows = [
        (text, tokenizer.convert_ids_to_tokens(row[:length].tolist()), tuple(row_spans[:length]))
        for text, row, length, row_spans in zip(texts, ids, mask.sum(1).tolist(), spans, strict=True)
    ]
    return Texts(
        input_ids=ids,
        attention_mask=mask,
        tokens=tuple(
            tuple(shown_token(token, text[slice(*span)]) for token, span in zip(tokens, where, strict=True))
            for text, tokens, where in rows
        ),
        spans=tuple(where for _, _, where in rows),
        truncated=tuple(truncated),
    )


def warn_of_cuts(texts: Sequence[str], truncated: Sequence[bool], limit: int, name: str) -> None:
    """Say which texts were cut at a model's token limit."""
    for text in (text for text, cut in zip(texts, truncated, strict=True) if cut):
        warnings.warn(
            f"The text {text[:40]!r}... has more than the {limit} tokens that {name!r} reads; the rest is cut "
            "off and marked so in the result. Shorten it to explain all of it.",
            stacklevel=3,
        )


def _read_fast(
    tokenizer: Any, texts: Sequence[str], arguments: dict[str, Any]
) -> tuple[Tensor, Tensor, list[list[tuple[int, int]]], list[bool]]:
    """Ids, mask, spans and whether each text was cut, by a tokenizer that knows its offsets."""
    encoded = tokenizer(
        list(texts),
        return_attention_mask=True,
        return_offsets_mapping=True,
        return_overflowing_tokens=True,
        **arguments,
    )
    # Texts over the limit come in several pieces; the first one counts.
    pieces = encoded["overflow_to_sample_mapping"].tolist()
    first = [pieces.index(i) for i in range(len(texts))]
    spans = [
        tidy_spans(text, [(start, end) for start, end in row])
        for text, row in zip(texts, encoded["offset_mapping"][first].tolist(), strict=True)
    ]
    truncated = [pieces.count(i) > 1 for i in range(len(texts))]
    return encoded["input_ids"][first], encoded["attention_mask"][first].bool(), spans, truncated


def _read_slow(
    tokenizer: Any, texts: Sequence[str], arguments: dict[str, Any]
) -> tuple[Tensor, Tensor, list[list[tuple[int, int]]], list[bool]]:
    """The same by a tokenizer that does not; its tokens are found again in the text."""
    encoded = tokenizer(list(texts), return_attention_mask=True, **arguments)
    ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    spans = [
        match_spans(
            ["" if i in special else token for i, token in zip(row, tokenizer.convert_ids_to_tokens(row), strict=True)],
            text,
        )
        for text, row in zip(texts, ids.tolist(), strict=True)
    ]
    truncated = [len(tokenizer(text)["input_ids"]) > arguments["max_length"] for text in texts]
    return ids, mask, spans, truncated
