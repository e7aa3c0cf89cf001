"""Plots as files by matplotlib, for benchmarks, trainings and the study: one colour a family, panels on a grid."""

from __future__ import annotations

from typing import Any

from vlcompare.errors import RequestError

COLORS = {"pythia": "#0072b2", "mamba": "#c25e00", "hybrid": "#2e7d5b"}  # the page's
GREY = "#6b7280"  # of what is not a model's: a line at chance


def new_figure(size: tuple[float, float]) -> Any:
    """An empty matplotlib Figure of (width, height) inches, without a display.

    Raises RequestError where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError(f"A plot needs matplotlib, which cannot be used ({error}): leave --plot out.") from error
    return Figure(figsize=size, layout="constrained")


def panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure of `count` panels of `size` inches each, at most `columns` in a row, and their axes in reading order."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure((size[0] * columns, size[1] * rows))
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def chance_line(axes: Any, chance: float) -> None:
    axes.axhline(chance, color=GREY, linestyle="--", linewidth=1)
