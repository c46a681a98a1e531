"""A page that grows downward as text, pictures and scales are put on it; all lengths are in points."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from m2ib_lightning.display import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.font_manager import FontProperties

POINTS_PER_INCH = 72
INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#d0d0d0"
WARNED, WARNING = "#7a2e00", "#fff1e0"
"""The ink and the ground of a banner."""

# Tried in this order for the characters that the first lacks, where they are installed.
FAMILIES = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Arial Unicode MS",
)


class Scale(NamedTuple):
    """How values become colours: 0 is the first colour, `top` and more the last."""

    colours: Colormap
    top: float
    label: str


class Page:
    """Draws on a matplotlib figure of its own, with no global state.

    Args:
        width: The width of the page without its margins.
        margin: How much is left empty on all four sides.
        dpi: Pixels per inch of what is drawn.
    """

    def __init__(self, width: float, margin: float = 18, dpi: int = 160) -> None:
        from matplotlib.figure import Figure

        self.width, self.margin, self.dpi = width, margin, dpi
        self.figure = Figure(dpi=dpi, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)
        self.axes.set_xlim(-margin, width + margin)
        self.y = 0.0  # of the next thing's upper edge; falls as the page grows

    def close(self) -> None:
        """Give the figure the height of what is on it."""
        self.axes.set_ylim(self.y - self.margin, self.margin)
        height = 2 * self.margin - self.y
        self.figure.set_size_inches((self.width + 2 * self.margin) / POINTS_PER_INCH, height / POINTS_PER_INCH)

    def write(self, text: str, size: float = 8, colour: str = INK, weight: str = "normal") -> None:
        """Add one line at the left margin, cut if it is too long."""
        self.text(0, self.y, fit(text, self.width, size, weight), size, colour, weight, va="top")
        self.y -= 1.5 * size

    def banner(self, head: str, text: str, size: float = 8) -> None:
        """Add a box with a headline and a text, in as many lines as it needs."""
        from matplotlib.patches import FancyBboxPatch

        lines = wrap(text, self.width - 16, size)
        height = 1.5 * size * (len(lines) + 1) + 10
        self.axes.add_patch(
            FancyBboxPatch(
                (0, self.y - height), self.width, height, "round,pad=0,rounding_size=4", facecolor=WARNING, linewidth=0
            )
        )
        for place, line in enumerate([head, *lines]):
            weight = "normal" if place else "bold"
            self.text(8, self.y - 6 - 1.5 * size * place, line, size, WARNED, weight, va="top")
        self.y -= height + 10

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        colour: str = INK,
        weight: str = "normal",
        ha: str = "left",
        va: str = "baseline",
    ) -> None:
        """Put text at a place; `$` and other signs of mathematics stand for themselves."""
        self.axes.text(
            x, y, drawable(text), color=colour, ha=ha, va=va, fontproperties=_font(size, weight), parse_math=False
        )

    def picture(self, x: float, y: float, image: Image.Image, size: tuple[float, float]) -> None:
        """Put a picture with its upper left corner at a place, with as many pixels as the page has there."""
        width, height = size
        self.axes.imshow(image, extent=(x, x + width, y - height, y), aspect="auto", interpolation="lanczos")

    def scale_bar(self, x: float, y: float, size: tuple[float, float], scale: Scale) -> Axes:
        """Put a colour bar with its upper left corner at a place, upright if it is taller than wide."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        width, height = size
        bar = self.axes.inset_axes((x, y - height, width, height), transform=self.axes.transData)
        drawn = self.figure.colorbar(
            ScalarMappable(Normalize(0, scale.top if scale.top > 0 else 1), scale.colours),
            cax=bar,
            orientation="vertical" if height > width else "horizontal",
            ticks=None if scale.top > 0 else [0],
            format="%.3g",
        )
        drawn.outline.set(edgecolor=PALE, linewidth=0.5)
        bar.tick_params(labelsize=7, length=2, color=GREY, labelcolor=INK)
        if height > width:
            drawn.set_label(scale.label, fontsize=8, color=INK)
        return bar


def fit(text: str, width: float, size: float, weight: str = "normal") -> str:
    """The text, cut in its middle if it is wider than `width`."""
    return cut(drawable(text), width, lambda some: measure(some, size, weight))


def wrap(text: str, width: float, size: float) -> list[str]:
    """The text in lines that are no wider than `width`, cut between words; a wider word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and measure(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def measure(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text."""
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(drawable(text), _font(size, weight), ismath=False)[0])


def drawable(text: str) -> str:
    """The text in one line, with a box for each character that no installed font has."""
    known = _characters()
    return "".join(c if ord(c) in known else "□" for c in " ".join(text.split()))


def font_file(text: str, weight: str = "normal") -> str:
    """The file of the first installed font that has every character of a text, or of the first of all."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = [findfont(FontProperties(family=name, weight=weight)) for name in _families()]
    wanted = {ord(c) for c in drawable(text)}
    return next((file for file in files if wanted <= get_font(file).get_charmap().keys()), files[0])


@lru_cache(maxsize=1)
def _families() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return tuple(name for name in FAMILIES if name in installed)


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset().union(*(get_font(findfont(name)).get_charmap() for name in _families()))


@lru_cache(maxsize=32)
def _font(size: float, weight: str) -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=list(_families()), size=size, weight=weight)
