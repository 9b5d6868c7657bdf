"""The report's plots as PNG files, for a model card or slides; needs the `report` extra.

The page does not need them: it draws its own.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from edgeagent.evals.compare.plots import Plot

DPI = 150


def can_draw() -> bool:
    """Tell whether matplotlib is installed, without loading it."""
    return importlib.util.find_spec("matplotlib") is not None


def write(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write one file for each plot and return their paths; about half a second each.

    Raises:
        OSError: the folder cannot be written.
    """
    # 400 ms, and only where the extra is installed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for number, plot in enumerate(plots, 1):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(plot.title, fontsize=11)
        axes.set_xlabel(plot.x.title)
        axes.set_ylabel(plot.y.title)
        axes.set_xscale("log" if plot.x.is_log else "linear")
        axes.set_yscale("log" if plot.y.is_log else "linear")
        for point in plot.points:
            colour = "black" if point.is_base else "tab:blue"
            axes.plot(point.x, point.y, "o", color=colour)
            if point.low is not None and point.high is not None:
                axes.vlines(point.x, point.low, point.high, color=colour, alpha=0.4)
            axes.annotate(
                point.label, (point.x, point.y), xytext=(5, 4), textcoords="offset points"
            )
        for rule in plot.rules:
            line = axes.axvline if rule.is_upright else axes.axhline
            line(rule.at, linestyle="--", color="grey", linewidth=1, label=rule.label or None)
        # Room for the label beside the last point.
        axes.margins(x=0.14, y=0.1)
        if plot.x.least is not None:
            axes.set_xlim(left=plot.x.least)
        path = folder / f"plot-{number}.png"
        partial = path.with_suffix(".part")
        figure.savefig(partial, format="png", dpi=DPI)
        os.replace(partial, path)
        paths.append(path)
    return paths
