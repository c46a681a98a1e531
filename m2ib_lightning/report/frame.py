"""One picture of a pair's masks at one step of their fit, made to be seen small and drawn quickly."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from einops import repeat
from PIL import Image, ImageDraw, ImageFont

from m2ib_lightning.attribution import spread
from m2ib_lightning.display import HEAT, Chip, blend, chips, cut, decimals, ground
from m2ib_lightning.report.mask_state import FrameScale, MaskState
from m2ib_lightning.report.page import GREY, INK, PALE, drawable, font_file
from m2ib_lightning.report.words import Placed, place

if TYPE_CHECKING:
    from numpy.typing import NDArray

PANEL, GAP = 224, 16  # pixels
WIDTH = 2 * PANEL + 3 * GAP
TOP = 68  # of the panels
LARGE, MIDDLE, SMALL = 24, 20, 17
CHIP, LINE, LINES = 29, 54, 4


def draw_frame(state: MaskState, image: Image.Image, scale: FrameScale) -> Image.Image:
    """An RGB picture, 496 pixels wide: capacity and mask over the image, and the words with their nats."""
    size = _panel_size(image)
    placed = _place_words(state, scale)
    under = TOP + size[1] + 46
    frame = Image.new("RGB", (WIDTH, under + _height(placed)), "white")
    draw = ImageDraw.Draw(frame)
    _header(draw, state)
    shown = _grey(image, size)
    panels = (
        ("nats per patch", HEAT, state.capacity.image_map, ("0", f"{scale.patch / 4:g}", f"≥ {scale.patch:g}")),
        ("mask value λ (mean)", "viridis", state.mask.image_map, ("0", "0.5", "1")),
    )  # fmt: skip
    for i, (label, colours, values, ticks) in enumerate(panels):
        x = GAP + i * (PANEL + GAP)
        if values is None:
            frame.paste(Image.fromarray((255 * shown).round().astype(np.uint8)), (x, TOP))
            continue
        draw.text((x, TOP - 6), label, INK, _font(label, SMALL), anchor="ls")
        place = scale.share(values) if i == 0 else values
        heat = spread(place.astype(np.float32), state.capacity.view, (size[1], size[0]))
        frame.paste(blend(shown, heat, colours), (x, TOP))
        _bar(frame, draw, (x, TOP + size[1] + 6), colours, ticks)
    _words(draw, placed, scale, under)
    return frame


def _header(draw: ImageDraw.ImageDraw, state: MaskState) -> None:
    step = f"step {state.step}" + ("" if math.isnan(state.loss) else f" · loss {state.loss:.2f}".replace("-", "−"))
    right = _font(step, LARGE, "bold")
    draw.text((WIDTH - GAP, 8), step, INK, right, anchor="ra")
    name, font = drawable(state.capacity.text), _font(state.capacity.text, LARGE)
    draw.text((GAP, 8), cut(name, WIDTH - 3 * GAP - right.getlength(step), font.getlength), INK, font)


def _panel_size(image: Image.Image) -> tuple[int, int]:
    """(width, height): as wide as a panel, very wide or tall pictures squeezed."""
    return PANEL, round(PANEL * min(1.5, max(0.25, image.height / image.width)))


def _grey(image: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1], small, dimmed and grey: colours of the picture would be read as values."""
    small = image.convert("L").resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    return repeat(np.asarray(small, np.float32) * np.float32(0.6 / 255), "h w -> h w rgb", rgb=3)


def _bar(
    frame: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], colours: str, ticks: tuple[str, ...]
) -> None:
    """The colours as they look over a grey picture, and the values at its left, middle and right."""
    x, y = corner
    ramp = repeat(np.linspace(0, 1, PANEL, dtype=np.float32), "w -> h w", h=10)
    frame.paste(blend(np.full((10, PANEL, 3), 0.3, np.float32), ramp, colours), corner)
    for right, tick, anchor in zip((0, PANEL // 2, PANEL), ticks, ("la", "ma", "ra"), strict=True):
        draw.text((x + right, y + 12), tick, INK, _font(tick, SMALL), anchor=anchor)


def _place_words(state: MaskState, scale: FrameScale) -> list[Placed]:
    """The words in at most `LINES` lines, in the same places at every step."""
    words = [(word, nats) for word, nats, _ in state.words()]
    shown = chips(words, "nats", scale.word) or [Chip(word, "", 0.0) for word in state.capacity.text.split()]
    room = _font("", SMALL).getlength(f"{2 * scale.word:{decimals(scale.word)}}") + 8 if words else 0.0
    fitted = [chip._replace(word=cut(drawable(chip.word), PANEL, _font(chip.word, MIDDLE).getlength)) for chip in shown]
    widths = [round(max(_font(chip.word, MIDDLE).getlength(chip.word) + 10, room)) for chip in fitted]
    placed = place(zip(fitted, widths, strict=True), WIDTH - 2 * GAP, gap=4)
    first = [word for word in placed if word.line < LINES]
    if len(first) < len(placed):
        first[-1] = first[-1]._replace(chip=Chip("…", "", 0.0))
    return first


def _words(draw: ImageDraw.ImageDraw, placed: list[Placed], scale: FrameScale, y: int) -> None:
    """The words on shaded grounds with their nats below."""
    for chip, line, x, width in placed:
        left, top, middle = GAP + x, y + line * LINE, GAP + x + width / 2
        draw.rounded_rectangle((left, top, left + width, top + CHIP), 5, fill=ground(chip.shade), outline=PALE)
        draw.text((middle, top + CHIP / 2), chip.word, INK, _font(chip.word, MIDDLE), anchor="mm")
        draw.text((middle, top + CHIP + 2), chip.label, INK, _font("", SMALL), anchor="ma")
    if any(word.chip.label for word in placed):
        legend = f"nats per word, darkest from {scale.word:g}"
        draw.text((GAP, y + _height(placed) - 26), legend, GREY, _font("", SMALL))


def _height(placed: list[Placed]) -> int:
    return (placed[-1].line + 1 if placed else 0) * LINE + 30


@lru_cache(maxsize=512)
def _font(text: str, size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    file = _font_file("" if text.isascii() else text, weight)
    return _sized(file, size)


@lru_cache(maxsize=64)
def _font_file(text: str, weight: str) -> str:
    return font_file(text, weight)


@lru_cache(maxsize=32)
def _sized(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
