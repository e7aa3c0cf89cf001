"""Charts as markup, for the page and for the report: curves, scatter, histogram, interval and stacked bar.

Numbers go in. Colours come from the style sheet around the chart, by class and `data-side`, so that one chart serves
light, dark and print. A mark's `data-pick` says what a click on it selects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlcompare.render.markup import Safe, el
from vlcompare.units import fraction

MAX_POINTS = 1000  # of a scatter; more samples are drawn as squares whose shade is their number
CELLS = 25  # squares along each axis of a dense scatter
BINS = 20  # of a histogram

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Measure:
    """A value that each side has for a sample: its column, how it is called, and where its axis ends."""

    name: str
    title: str
    top: float | None = 1.0  # the axis' end, if no value lies beyond it (as CIDEr-D may); None: the largest value
    threshold: float | None = None  # where right begins, drawn in the scatter


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: points in data space, its side's colour, dashed for a formula, dots for what was measured."""

    side: str
    points: Sequence[tuple[float, float]]
    style: str = "line"  # "line"; "dash": a formula; "measured": a line that ends in a dot


@dataclass(frozen=True, slots=True)
class Axes:
    """A chart's frame: the ranges of the data, the size of the view box, and the margins within it."""

    x: tuple[float, float]
    y: tuple[float, float]
    size: tuple[int, int]
    margins: tuple[int, int, int, int]  # left, top, right, bottom

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data to the view box; what lies outside of a range is drawn at its end."""
        (width, height), (left, top, right, bottom) = self.size, self.margins
        across = min(1.0, max(0.0, (x - self.x[0]) / (self.x[1] - self.x[0])))
        up = min(1.0, max(0.0, (y - self.y[0]) / (self.y[1] - self.y[0])))
        return left + (width - left - right) * across, height - bottom - (height - top - bottom) * up

    def line(self, x0: float, y0: float, x1: float, y1: float, class_: str) -> Safe:
        """A line between two points of the data."""
        (a, b), (c, d) = self.at(x0, y0), self.at(x1, y1)
        return el("line", x1=f"{a:.1f}", y1=f"{b:.1f}", x2=f"{c:.1f}", y2=f"{d:.1f}", class_=class_)

    def rectangle(self, x: tuple[float, float], y: tuple[float, float], title: str, **attributes: str | None) -> Safe:
        """A rectangle over these ranges of the data, with a title; its attributes say whose it is and what it picks."""
        (x0, y0), (x1, y1) = self.at(x[0], y[0]), self.at(x[1], y[1])
        edges = {"x": f"{x0:.1f}", "y": f"{y1:.1f}", "width": f"{x1 - x0:.2f}", "height": f"{y0 - y1:.2f}"}
        return el("rect", el("title", title), **edges, **attributes, class_="vi-point")

    def grid(self, x_ticks: dict[float, str], y_ticks: dict[float, str]) -> list[Safe]:
        """The labels of both axes' ticks, and a line across at each of the y axis'."""
        parts = []
        for value, label in y_ticks.items():
            parts.append(self.line(self.x[0], value, self.x[1], value, "vl-grid"))
            y = f"{self.at(self.x[0], value)[1] + 4:.1f}"
            parts.append(el("text", label, x=self.margins[0] - 7, y=y, text_anchor="end"))
        for value, label in x_ticks.items():
            x = f"{self.at(value, self.y[0])[0]:.1f}"
            parts.append(el("text", label, x=x, y=self.size[1] - self.margins[3] + 17, text_anchor="middle"))
        return parts

    def chart(self, *parts: Safe | None, title: str, label: str = "") -> Safe:
        """The parts as one picture. title: shown where the pointer rests; label: read aloud, the title by default."""
        box = f"0 0 {self.size[0]} {self.size[1]}"
        return el("svg", el("title", title), *parts, viewBox=box, role="img", aria_label=label or title,
                  class_="vl-chart")  # fmt: skip


def curves(lines: Sequence[Curve], title: str, y_text: Callable[[float], str], *, start: float = 0.0) -> Safe:
    """Curves over a common axis from zero, with a title that says what is drawn; a sentence where nothing is.

    y_text: how a value is written at the y axis; start: where the x axis begins at the latest, in whole steps.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return el("p", "Nothing to draw: no second token.", class_="vl-empty")
    x_ticks = ticks(min(start, min(x for x, _ in points)), max(x for x, _ in points), 6, whole=True)
    y_ticks = ticks(0.0, max(y for _, y in points) or 1.0, 4)
    across = x_ticks[0], max(x_ticks[-1], x_ticks[0] + 1)
    axes = Axes(across, (0.0, y_ticks[-1]), (340, 170), (54, 10, 10, 22))  # about the size at which it is shown
    grid = axes.grid({value: f"{value:,.0f}" for value in x_ticks}, {value: y_text(value) for value in y_ticks})
    return axes.chart(*grid, *[_curve(line, axes) for line in lines], title=title)


def _curve(line: Curve, axes: Axes) -> Safe | None:
    points = [axes.at(*point) for point in line.points]
    class_ = {"dash": "vl-line vl-dash", "measured": "vl-line vl-measured"}.get(line.style, "vl-line")
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    curve = el("polyline", points=joined, class_=class_, data_side=line.side) if len(points) > 1 else None
    if line.style != "measured" and curve:
        return curve
    x, y = points[-1]
    dot = el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5 if line.side == "left" else 4)
    return el("g", curve, dot, class_="vl-dots", data_side=line.side)


def scatter(left: Floats, right: Floats, rows: Sequence[int], measure: Measure, names: tuple[str, str]) -> Safe:
    """Left against right, one mark a sample; above MAX_POINTS samples, squares by count that filter when clicked.

    left, right: (samples,), nan where a side has no value; rows: (samples,), what a click on a mark opens.
    """
    known = np.isfinite(left) & np.isfinite(right)
    x, y, rows_known = left[known], right[known], np.asarray(rows)[known]
    if not len(x):
        return el("p", f"No sample here has {measure.title} on both sides.", class_="vl-empty")
    end = _end(measure, x, y)
    axes = Axes((0.0, end), (0.0, end), (320, 320), (44, 10, 10, 36))
    marks = _ticks_within(end, 4)
    parts = [*axes.grid(marks, marks), *(axes.line(value, 0, value, end, "vl-grid") for value in marks)]
    common = {"text_anchor": "end", "class_": "vl-axis"}
    parts += [
        el("text", f"{names[0]} →", x=310, y=316, data_side="left", **common),
        el("text", f"{names[1]} →", transform="translate(11 10) rotate(-90)", data_side="right", **common),
        axes.line(0, 0, end, end, "vi-diagonal"),
    ]
    if measure.threshold is not None:
        parts.append(axes.line(measure.threshold, 0, measure.threshold, end, "vi-threshold"))
        parts.append(axes.line(0, measure.threshold, end, measure.threshold, "vi-threshold"))
    if len(x) > MAX_POINTS:
        parts += _density(x, y, axes, measure.name)
    else:
        parts += [_point(*point, axes) for point in zip(x.tolist(), y.tolist(), rows_known.tolist(), strict=True)]
    title = f"{measure.title}: {names[0]} across, {names[1]} up"
    return axes.chart(*parts, title=title, label=f"{measure.title} of both sides, {len(x):,} samples")


def _point(x: float, y: float, row: int, axes: Axes) -> Safe:
    (px, py), better = axes.at(x, y), "left" if x > y + 1e-9 else "right" if y > x + 1e-9 else None
    return el("circle", cx=f"{px:.1f}", cy=f"{py:.1f}", r=3.5, data_side=better, data_pick=f"row:{row}",
              class_="vi-point")  # fmt: skip


def _density(x: Floats, y: Floats, axes: Axes, name: str) -> list[Safe]:
    end = axes.x[1]
    counts, _, _ = np.histogram2d(x, y, bins=CELLS, range=[[0, end], [0, end]])
    step, most = end / CELLS, np.log1p(counts.max())
    cells = []
    for i, j in zip(*np.nonzero(counts), strict=True):
        across, up = (i * step, (i + 1) * step), (j * step, (j + 1) * step)
        ranges = f"{across[0]:.6g}:{_above(across[1], end):.6g}:{up[0]:.6g}:{_above(up[1], end):.6g}"
        cells.append(
            axes.rectangle(
                across,
                up,
                f"{int(counts[i, j]):,} samples",
                fill_opacity=f"{0.12 + 0.88 * np.log1p(counts[i, j]) / most:.2f}",
                data_side="left" if i > j else "right" if j > i else None,
                data_pick=f"cell:{name}:{ranges}",
            )
        )
    return cells


def histogram(values: Sequence[tuple[str, Floats]], measure: Measure) -> Safe:
    """How each side's values are spread, bars of both sides in each bin; a bar filters when clicked.

    values: (side, its column of (samples,), nan where a value is missing).
    """
    known = [(side, column[np.isfinite(column)]) for side, column in values]
    known = [(side, column) for side, column in known if len(column)]
    if not known:
        return el("p", f"No sample here has {measure.title}.", class_="vl-empty")
    end = _end(measure, *[column for _, column in known])
    counts = [(side, np.histogram(column, bins=BINS, range=(0, end))[0]) for side, column in known]
    y_ticks = ticks(0.0, float(max(column.max() for _, column in counts)) or 1.0, 4, whole=True)
    axes = Axes((0.0, end), (0.0, y_ticks[-1]), (360, 260), (44, 10, 10, 36))
    parts = axes.grid(_ticks_within(end, 5), {value: f"{value:,.0f}" for value in y_ticks})
    parts.append(el("text", measure.title, x=350, y=258, text_anchor="end", class_="vl-axis"))
    bin_, each = end / BINS, end / BINS * 0.84 / len(counts)
    for order, (side, column) in enumerate(counts):
        for index in np.flatnonzero(column).tolist():
            low, high, count = bin_ * index, bin_ * (index + 1), int(column[index])
            start = low + 0.08 * bin_ + order * each
            title = f"{side}: {count:,} samples from {low:.3g} to {high:.3g}"
            pick = f"bin:{side}:{measure.name}:{low:.6g}:{_above(high, end):.6g}"
            parts.append(
                axes.rectangle((start, start + each), (0.0, float(count)), title, data_side=side, data_pick=pick)
            )
    return axes.chart(*parts, title=f"{measure.title}, number of samples in each of {BINS} bins", label=measure.title)


def interval(difference: float, low: float, high: float, reach: float, *, settled: bool = True) -> Safe:
    """A difference (left - right) with its interval, on an axis from -reach to reach; coloured where 0 is outside.

    settled: False where an interval without 0 is not enough, as among many: it then has no side's colour.
    """
    side = "left" if low > 0 else "right" if high < 0 else None
    axes = Axes((-(reach or 1.0), reach or 1.0), (0.0, 1.0), (110, 18), (0, 0, 0, 0))
    value, lowest, highest = (fraction(each, signed=True) for each in (difference, low, high))
    return _whisker(
        axes,
        axes.line(0, 0, 0, 1, "vi-zero"),
        (difference, low, high),
        title=f"{value}, 95 % interval {lowest} to {highest}",
        label=f"difference {value}, interval {lowest} to {highest}",
        side=side if settled else None,
    )


def share(value: float, low: float, high: float, side: str | None = None) -> Safe:
    """A share with its interval, on an axis from 0 to 1."""
    axes = Axes((0.0, 1.0), (0.0, 1.0), (110, 18), (5, 0, 5, 0))
    label = f"{fraction(value)}, 95 % interval {fraction(low)} to {fraction(high)}"
    return _whisker(axes, axes.line(0, 0.5, 1, 0.5, "vi-zero"), (value, low, high), title=label, label=label, side=side)


def _whisker(
    axes: Axes, zero: Safe, values: tuple[float, float, float], *, title: str, label: str, side: str | None
) -> Safe:
    """A dot and the line of its interval in one row of a table; values: (value, low, high)."""
    value, low, high = values
    return el(
        "svg",
        el("title", title),
        zero,
        axes.line(low, 0.5, high, 0.5, "vi-whisker"),
        el("circle", cx=f"{axes.at(value, 0)[0]:.1f}", cy=9, r=4, class_="vi-dot"),
        viewBox="0 0 110 18",
        width=110,
        height=18,
        role="img",
        aria_label=label,
        data_side=side,
        class_="vi-interval",
    )


def bar(parts: Sequence[tuple[str, float, str]], end: float, side: str | None = None) -> Safe:
    """A bar of pieces after one another. parts: (name, length, length as text); end: the length of the full width."""
    pieces = [
        el(
            "span",
            class_=f"vl-piece vl-piece-{index}",
            style=f"width:{100 * length / end:.2f}%",
            title=f"{name}: {text}",
        )
        for index, (name, length, text) in enumerate(parts)
    ]
    return el("span", *pieces, class_="vl-bar", data_side=side)


def legend(names: Sequence[str]) -> Safe:
    """What the pieces of a bar are, in their order."""
    keys = [el("span", el("i", class_=f"vl-piece vl-piece-{i}"), name) for i, name in enumerate(names)]
    return el("div", *keys, class_="vl-legend")


def ticks(low: float, high: float, about: int, *, whole: bool = False) -> list[float]:
    """Round values that hold low..high between the first and the last."""
    span = max(high - low, 1e-9)
    raw = span / about
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= raw * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.floor(low / step)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _ticks_within(end: float, about: int) -> dict[float, str]:
    return {value: f"{value:g}" for value in ticks(0.0, end, about) if value <= end * 1.001}


def _end(measure: Measure, *columns: Floats) -> float:
    most = max(float(column.max()) for column in columns)
    if measure.top is not None and most <= measure.top:
        return measure.top
    return ticks(0.0, most, 5)[-1] if most > 0 else 1.0


def _above(high: float, end: float) -> float:
    """The bound below which a bin's values lie: the last bin holds the axis' end, too."""
    return high if high < end * (1 - 1e-9) else end * 1.0001
