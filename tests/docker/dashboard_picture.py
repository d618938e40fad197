"""The dashboard's panels, drawn from what its queries answer: Grafana itself is no package here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

_COLUMN, _ROW = 0.6, 0.26
"""Inches of one unit of Grafana's grid, which is 24 units wide."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel: seconds, and a value for each."""

    name: str
    seconds: list[float]
    values: list[float]


def draw_dashboard(
    panels: Mapping[str, tuple[Mapping[str, int], list[Series]]], path: Path
) -> None:
    """Draws the panels into a picture.

    Args:
        panels: By title: the place on the grid (x, y, w, h), and the lines.
    """
    height = max(place["y"] + place["h"] for place, _ in panels.values())
    figure = Figure(figsize=(24 * _COLUMN, height * _ROW), dpi=80)
    for title, (place, lines) in panels.items():
        x, y, width, tall = (place[name] for name in ("x", "y", "w", "h"))
        left, bottom = (x + 1.2) / 24, 1 - (y + tall - 1.4) / height
        axes = figure.add_axes((left, bottom, (width - 1.6) / 24, (tall - 3) / height))
        axes.margins(y=0.3)  # room for the legend
        axes.set_title(title, fontsize=9, loc="left", weight="bold")
        for line in lines:
            if any(math.isfinite(value) for value in line.values):
                axes.plot(line.seconds, line.values, label=line.name, linewidth=1.2)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if 1 < len(lines) <= 10:
            axes.legend(fontsize=6, loc="upper left", ncols=2)
    figure.savefig(path)
