"""The inspect page's charts as SVG: where both sides' values meet, how they are spread, and differences with intervals.

Knows numbers and what a click on a mark should say (`data-pick`); knows nothing of runs or pages. Colours come from the
style sheet, so the same markup serves light, dark and the printed report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlcompare.render.answer_charts import ticks
from vlcompare.render.markup import Safe, el

MOST_POINTS = 1000  # more are drawn as squares whose shade is their number
CELLS = 25
BINS = 20
SIDE = 320
EDGE = (44, 10, 10, 36)  # left, top, right, bottom of a square chart

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A value that each side has for a sample: its column, how it is called, and its unit."""

    name: str
    title: str
    top: float | None = 1.0  # the axis' end, if no value lies beyond it (as CIDEr-D may); None: the largest value
    unit: str = ""


def scatter(left: Floats, right: Floats, rows: Sequence[int], measure: Measure, names: tuple[str, str]) -> Safe:
    """Left against right, one mark a sample; above MOST_POINTS samples, squares by count that filter when clicked."""
    known = np.isfinite(left) & np.isfinite(right)
    x, y, rows_known = left[known], right[known], np.asarray(rows)[known]
    if not len(x):
        return el("p", f"No sample here has {measure.title} on both sides.", class_="vl-empty")
    end = _end(measure, x, y)
    parts = [el("title", f"{measure.title}: {names[0]} across, {names[1]} up"), *_axes(end, names)]
    parts.append(_line(0, 0, end, end, end, "vi-diagonal"))
    if measure.name == "iou":
        parts += [_line(0.5, 0, 0.5, end, end, "vi-threshold"), _line(0, 0.5, end, 0.5, end, "vi-threshold")]
    if len(x) <= MOST_POINTS:
        for a, b, row in zip(x.tolist(), y.tolist(), rows_known.tolist(), strict=True):
            px, py = _place(a, b, end)
            lead = "left" if a > b + 1e-9 else "right" if b > a + 1e-9 else None
            parts.append(
                el("circle", cx=f"{px:.1f}", cy=f"{py:.1f}", r=3.5, data_side=lead, data_pick=f"row:{row}",
                   class_="vi-point")
            )  # fmt: skip
    else:
        parts += _density(x, y, end, measure.name)
    label = f"{measure.title} of both sides, {len(x):,} samples"
    return el("svg", *parts, viewBox=f"0 0 {SIDE} {SIDE}", role="img", aria_label=label, class_="vl-chart vi-scatter")


def _density(x: Floats, y: Floats, end: float, name: str) -> list[Safe]:
    counts, _, _ = np.histogram2d(x, y, bins=CELLS, range=[[0, end], [0, end]])
    most, step = np.log1p(counts.max()), end / CELLS
    cells = []
    for i, j in zip(*np.nonzero(counts), strict=True):
        (px, py), count = _place(i * step, (j + 1) * step, end), int(counts[i, j])
        width = (SIDE - EDGE[0] - EDGE[2]) / CELLS
        upper = (_above((i + 1) * step, end), _above((j + 1) * step, end))
        ranges = f"{i * step:.6g}:{upper[0]:.6g}:{j * step:.6g}:{upper[1]:.6g}"
        cells.append(
            el(
                "rect",
                el("title", f"{count:,} samples"),
                x=f"{px:.1f}",
                y=f"{py:.1f}",
                width=f"{width:.2f}",
                height=f"{width:.2f}",
                fill_opacity=f"{0.12 + 0.88 * np.log1p(count) / most:.2f}",
                data_side="left" if i > j else "right" if j > i else None,
                data_pick=f"cell:{name}:{ranges}",
                class_="vi-point",
            )
        )
    return cells


def histogram(values: Sequence[tuple[str, Floats]], measure: Measure) -> Safe:
    """How each side's values are spread, bars of both sides in each bin; a bar filters when clicked."""
    known = [(side, column[np.isfinite(column)]) for side, column in values]
    known = [(side, column) for side, column in known if len(column)]
    if not known:
        return el("p", f"No sample here has {measure.title}.", class_="vl-empty")
    end = _end(measure, *[column for _, column in known])
    counts = [(side, np.histogram(column, bins=BINS, range=(0, end))[0]) for side, column in known]
    width, height, (x0, y0, right, bottom) = 360, SIDE - 60, EDGE
    marks_y = ticks(0.0, float(max(c.max() for _, c in counts)) or 1.0, 4, whole=True)
    across, up = width - x0 - right, height - y0 - bottom
    parts = [el("title", f"{measure.title}, number of samples in each of {BINS} bins")]
    for value in marks_y:
        y = y0 + up * (1 - value / marks_y[-1])
        parts.append(el("line", x1=x0, x2=width - right, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="vl-grid"))
        parts.append(el("text", f"{value:,.0f}", x=x0 - 7, y=f"{y + 4:.1f}", text_anchor="end"))
    for value in ticks(0.0, end, 5):
        if value <= end * 1.001:
            parts.append(_label(f"{value:g}", x0 + across * value / end, height - bottom + 17))
    parts.append(el("text", _axis_name(measure), x=width - right, y=height - 2, text_anchor="end", class_="vl-axis"))
    bar = across / BINS
    each = bar * 0.84 / len(counts)
    for place, (side, column) in enumerate(counts):
        for index in np.flatnonzero(column).tolist():
            low, high, count = end * index / BINS, end * (index + 1) / BINS, int(column[index])
            tall = up * count / marks_y[-1]
            parts.append(
                el(
                    "rect",
                    el("title", f"{side}: {count:,} samples from {low:.3g} to {high:.3g}"),
                    x=f"{x0 + bar * (index + 0.08) + each * place:.1f}",
                    y=f"{y0 + up - tall:.1f}",
                    width=f"{each:.1f}",
                    height=f"{tall:.1f}",
                    data_side=side,
                    data_pick=f"bin:{side}:{measure.name}:{low:.6g}:{_above(high, end):.6g}",
                    class_="vi-point",
                )
            )
    return el("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=measure.title, class_="vl-chart")


def interval(difference: float, low: float, high: float, reach: float) -> Safe:
    """A difference (left - right) with its interval, on an axis from -reach to reach; coloured where 0 is outside."""
    width, height = 110, 18

    def x(value: float) -> float:
        return width / 2 * (1 + max(-1.0, min(1.0, value / (reach or 1.0))))

    side = "left" if low > 0 else "right" if high < 0 else None
    return el(
        "svg",
        el("title", f"{difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"),
        el("line", x1=width / 2, x2=width / 2, y1=0, y2=height, class_="vi-zero"),
        el("line", x1=f"{x(low):.1f}", x2=f"{x(high):.1f}", y1=height / 2, y2=height / 2, class_="vi-whisker"),
        el("circle", cx=f"{x(difference):.1f}", cy=height / 2, r=4, class_="vi-dot"),
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=f"difference {difference:+.3f}, interval {low:+.3f} to {high:+.3f}",
        data_side=side,
        class_="vi-interval",
    )


# ---- a square chart's frame ------------------------------------------------------------------------------------------


def _end(measure: Measure, *columns: Floats) -> float:
    most = max((float(column.max()) for column in columns if len(column)), default=1.0)
    if measure.top is not None and most <= measure.top:
        return measure.top
    return ticks(0.0, most, 5)[-1] if most > 0 else 1.0


def _above(high: float, end: float) -> float:
    """The bound below which a bin's values lie: the last bin holds the axis' end, too."""
    return high if high < end * (1 - 1e-9) else end * 1.0001


def _axis_name(measure: Measure) -> str:
    return f"{measure.title}{f', {measure.unit}' if measure.unit else ''}"


def _place(x: float, y: float, end: float) -> tuple[float, float]:
    left, top, right, bottom = EDGE
    return (
        left + (SIDE - left - right) * min(1.0, max(0.0, x / end)),
        SIDE - bottom - (SIDE - top - bottom) * min(1.0, max(0.0, y / end)),
    )


def _axes(end: float, names: tuple[str, str]) -> list[Safe]:
    parts = []
    for value in ticks(0.0, end, 4):
        if value > end * 1.001:
            continue
        x, y = _place(value, value, end)
        parts.append(_line(0, value, end, value, end, "vl-grid"))
        parts.append(_line(value, 0, value, end, end, "vl-grid"))
        parts.append(_label(f"{value:g}", x, SIDE - EDGE[3] + 16))
        parts.append(el("text", f"{value:g}", x=EDGE[0] - 6, y=f"{y + 4:.1f}", text_anchor="end"))
    parts.append(
        el("text", f"{names[0]} →", x=SIDE - EDGE[2], y=SIDE - 4, text_anchor="end", class_="vl-axis", data_side="left")
    )
    up = f"{names[1]} →"
    parts.append(
        el("text", up, transform=f"translate(11 {EDGE[1]}) rotate(-90)", text_anchor="end", class_="vl-axis",
           data_side="right")
    )  # fmt: skip
    return parts


def _label(text: str, x: float, y: float) -> Safe:
    return el("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor="middle")


def _line(x0: float, y0: float, x1: float, y1: float, end: float, class_: str) -> Safe:
    (a, b), (c, d) = _place(x0, y0, end), _place(x1, y1, end)
    return el("line", x1=f"{a:.1f}", y1=f"{b:.1f}", x2=f"{c:.1f}", y2=f"{d:.1f}", class_=class_)
