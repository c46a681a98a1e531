"""A calibration's whole grid, as tables for the terminal and as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2ib_lightning.calibration import Calibration, GridPoint
from m2ib_lightning.report.page import GREY, INK
from m2ib_lightning.report.table import plain_table
from m2ib_lightning.types import Layer, Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table


def grid_tables(calibration: Calibration) -> list[Table]:
    """A table for each tower: a row per layer, a column per beta, the chosen cell in bold with a star.

    A cell has the faithfulness of the maps and the share of the similarity that is left.
    """
    return [_table(calibration, modality) for modality in calibration.chosen]


def _table(calibration: Calibration, modality: Modality) -> Table:
    layers, betas, points = _grid(calibration, modality)
    table = plain_table(title=f"{modality}: faithfulness / similarity left", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for beta in betas:
        table.add_column(f"beta {beta:g}", justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(str(layer), *(_cell(points[layer, beta], calibration) for beta in betas))
    return table


def _cell(point: GridPoint, calibration: Calibration) -> str:
    said = f"{point.faithfulness:.2f} / {point.left:.0%}"
    return f"[bold]*{said}[/bold]" if point == calibration.chosen[point.modality] else said


def _grid(
    calibration: Calibration, modality: Modality
) -> tuple[list[Layer], list[float], dict[tuple[Layer, float], GridPoint]]:
    """The layers, the betas and the points of a tower, in the order in which they were measured."""
    points = {(p.layer, p.beta): p for p in calibration.grid if p.modality == modality}
    return list(dict.fromkeys(layer for layer, _ in points)), list(dict.fromkeys(beta for _, beta in points)), points


def save_grid_picture(calibration: Calibration, path: str | Path) -> None:
    """Write a panel for each tower: what each layer and beta is worth as a colour, both numbers in its cell.

    Args:
        calibration: The calibration that is shown.
        path: The file that is written; its ending says its kind.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = {m: _grid(calibration, m)[:2] for m in calibration.chosen}
    widths = [max(len(betas), 3) for _, betas in sizes.values()]
    wide, high = 0.95 * sum(widths) + 1.4 * len(sizes) + 0.4, 0.5 * max(len(some) for some, _ in sizes.values()) + 2.0
    figure = Figure(figsize=(wide, high), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sizes), squeeze=False, width_ratios=widths)[0]
    for axes, modality in zip(panels, sizes, strict=True):
        _panel(axes, calibration, modality)
    figure.suptitle(
        f"{calibration.backbone}, {calibration.pairs} pairs: faithfulness of the maps over similarity left",
        x=0.01, ha="left", size=10, color=INK,
    )  # fmt: skip
    figure.supxlabel(
        "Coloured by their product. Framed: the darkest, or the default where that is not clearly better.",
        x=0.01,
        ha="left",
        size=8,
        color=GREY,
    )
    figure.savefig(path)


def _panel(axes: Axes, calibration: Calibration, modality: Modality) -> None:
    from matplotlib.patches import Rectangle

    layers, betas, points = _grid(calibration, modality)
    worth = np.array([[points[layer, beta].worth for beta in betas] for layer in layers])
    axes.imshow(worth, cmap="Blues", vmin=0, vmax=max(float(worth.max()), 0.1), aspect="auto")
    for row, layer in enumerate(layers):
        for column, beta in enumerate(betas):
            point = points[layer, beta]
            colour = "white" if point.worth > 0.6 * worth.max() > 0 else INK
            said = f"{point.faithfulness:.2f}\n{point.left:.0%}"
            axes.text(column, row, said, ha="center", va="center", size=7.5, color=colour, linespacing=1.1)
            if point == calibration.chosen[modality]:
                frame = Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor="#d1495b", linewidth=2)
                axes.add_patch(frame)
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xlabel(f"{modality}_beta", size=9, color=INK)
    axes.set_ylabel(f"{modality}_layer", size=9, color=INK)
    axes.tick_params(labelsize=8, colors=GREY, length=0)
    axes.spines[:].set_visible(False)
