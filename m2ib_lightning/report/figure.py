"""One picture for one pair: the image, where in it the evidence lies, and the caption shaded word by word."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from PIL import Image

from m2ib_lightning.attribution import WHOLE, Attribution, MapStyle
from m2ib_lightning.display import DOUBTFUL, HEAT, blend
from m2ib_lightning.report.caption import plain_caption, shaded_caption
from m2ib_lightning.report.page import GREY, POINTS_PER_INCH, Page, Scale
from m2ib_lightning.report.phrases import phrase_pictures
from m2ib_lightning.verdict import SENTENCES, headline, is_doubtful

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 250.0  # the longer side of a picture beside another, points
WIDE = 1.8  # pictures wider than this many times their height stand below each other
NARROW = 8.0  # and beyond this ratio they are stretched, to be seen at all
GAP = 14.0
BAR = 9.0
BAR_LABELS = 46.0


def pair_figure(attribution: Attribution, image: Image.Image, style: MapStyle = "smooth") -> Image.Image:
    """One RGB picture of what made an image and a text similar, for a paper or a slide.

    The image, the image with its map over it and the caption with every word shaded by the sum of its tokens, each
    with its scale in raw values. Negative values are shaded as 0 and printed as they are. What was not explained is
    shown without shading. Where the verdict on a map is not "ok", a banner says so and the map is drawn in greys.

    Args:
        attribution: The result that is shown.
        image: The picture that was explained, as in `Pair.image`.
        style: How the map is drawn: "smooth" between the patches, or "patch", each with its own value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_draw(attribution, image, style))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_pair_figure(
    attribution: Attribution,
    image: Image.Image,
    path: str | Path,
    style: MapStyle = "smooth",
    format: str | None = None,
) -> None:
    """Write the picture to a file; PDF and SVG keep text and lines as vectors.

    Args:
        attribution: The result that is shown.
        image: The picture that was explained, as in `Pair.image`.
        path: The file that is written.
        style: "smooth" or "patch", as in `pair_figure`.
        format: "png", "pdf" or "svg"; by default what the file's ending says.
    """
    _draw(attribution, image, style).savefig(path, format=format)


def _draw(attribution: Attribution, image: Image.Image, style: MapStyle) -> Figure:
    size = _panel_size(image)
    explained = attribution.image_map is not None
    beside = explained and size[0] <= WIDE * size[1]
    row = size[0] * (2 if beside else 1) + (GAP if beside else 0) + (GAP + BAR + BAR_LABELS if explained else 0)
    page = Page(width=max(420.0, row))
    _header(page, attribution)
    if attribution.verdict != "ok":
        page.banner(headline(attribution), SENTENCES[attribution.verdict])
    if attribution.phrases:
        phrase_pictures(page, attribution, image, style)
    _pictures(page, attribution, image, size, beside, style)
    if attribution.text_map is None:
        plain_caption(page, attribution)
    else:
        shaded_caption(page, attribution)
    page.close()
    return page.figure


def _header(page: Page, a: Attribution) -> None:
    page.write(a.title, size=12, weight="bold")
    parts = [a.id, f"similarity {a.score:.3f}"]
    through = {"image": a.image_score, "text": a.text_score}
    scores = ", ".join(f"{name} {score:.3f}" for name, score in through.items() if not math.isnan(score))
    if scores:
        parts.append(f"through the bottleneck: {scores}")
    if a.steps:
        reason = f" ({a.stop_reason.replace('_', ' ')})" if a.stop_reason else ""
        parts.append(f"{a.steps} step{'s' * (a.steps != 1)}{reason}")
    page.write("  ·  ".join(parts), size=8, colour=GREY)
    page.y -= 8


def _panel_size(image: Image.Image) -> tuple[float, float]:
    """(width, height) of a picture on the page."""
    ratio = min(NARROW, max(1 / NARROW, image.width / image.height))
    if ratio > WIDE:
        return 2 * PANEL, 2 * PANEL / ratio
    return (PANEL, PANEL / ratio) if ratio > 1 else (PANEL * ratio, PANEL)


def _pictures(
    page: Page, a: Attribution, image: Image.Image, size: tuple[float, float], beside: bool, style: MapStyle
) -> None:
    width, height = size
    pixels = (round(width * page.dpi / POINTS_PER_INCH), round(height * page.dpi / POINTS_PER_INCH))
    shown = image.convert("RGB").resize(pixels, Image.Resampling.LANCZOS)
    page.text(0, page.y, "image", 8, GREY, va="top")
    page.picture(0, page.y - GAP, shown, size)
    if a.image_map is not None:
        x = width + GAP if beside else 0.0
        if not beside:
            page.y -= GAP + height + 8
        page.text(
            x, page.y, "image attribution" + ", dashed: what the model saw" * (a.view != WHOLE), 8, GREY, va="top"
        )
        page.picture(x, page.y - GAP, a.overlay(shown, style=style), size)
        _view(page, a, x, page.y - GAP, size)
        page.scale_bar(x + width + GAP * 0.6, page.y - GAP, (BAR, height), _image_scale(a))
    page.y -= GAP + height + 16


def _image_scale(a: Attribution) -> Scale:
    """The scale of the overlay, as it looks over a grey picture."""
    from matplotlib.colors import ListedColormap

    grey, ramp = np.full((1, 256, 3), 0.3, np.float32), np.linspace(0, 1, 256, dtype=np.float32)
    drawn = blend(grey, rearrange(ramp, "w -> 1 w"), DOUBTFUL if is_doubtful(a, "image") else HEAT)
    return Scale(ListedColormap(np.asarray(drawn)[0] / 255), a.image_top, f"{a.unit} per patch")


def _view(page: Page, a: Attribution, x: float, y: float, size: tuple[float, float]) -> None:
    """Frame what the model saw, if that was not everything."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = (min(1.0, max(0.0, edge)) for edge in a.view)
    if a.view != WHOLE:
        corner = (x + left * size[0], y - bottom * size[1])
        sides = ((right - left) * size[0], (bottom - top) * size[1])
        page.axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="white", linewidth=0.8, linestyle="--"))
