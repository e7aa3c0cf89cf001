"""Panels of a figure as SVG: series of points with their ranges, and strips of cells shaded by a value.

Values go in as they are drawn: a logarithm is taken before, and each tick says what stands there. Every mark has its
words as a title, shown where the pointer rests. Colours come from the style sheet around, by class and `data-side`;
`stand_alone` brings its own, for a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vlcompare.render.charts import Axes
from vlcompare.render.markup import Safe, el, join

WIDTH, HEIGHT = 340, 226  # of a panel's view box, about the size at which it is shown
_MARGINS = (52, 30, 14, 40)
_APART = 7  # between marks of several series at one place, at most
_FLOOR = 0.3  # half the width of a floor's line, in units of the axis: places are 1 apart
_STRIP, _LABEL = 14, 17  # heights of a strip of cells, and of the words above it
_GAP, _HEAD = 18, 58  # of a file: between panels, and above the first
COLOUR_OF = {"pythia": "left", "mamba": "right", "hybrid": "hybrid"}  # family -> whose colour
STYLE = """text { font: 11px system-ui, sans-serif; fill: #5c6068; }
.vl-panel-title, .vl-file-title { font-weight: 600; fill: #1d1f23; } .vl-file-title { font-size: 15px; }
[data-side="left"] { --side: #00629b; } [data-side="right"] { --side: #a65200; }
[data-side="hybrid"] { --side: #2e7d5b; }
.vl-grid { stroke: #dcdad4; } .vl-chance { stroke: #5c6068; stroke-dasharray: 4 4; }
.vl-line, .vl-spread { fill: none; stroke: var(--side); stroke-width: 1.8; stroke-linejoin: round; }
.vl-dot { fill: var(--side); stroke: #ffffff; } .vl-hollow { fill: #ffffff; stroke: var(--side); stroke-width: 1.8; }
.vl-cell { fill: var(--side); } .vl-cells { fill: none; stroke: #dcdad4; }"""


@dataclass(frozen=True, slots=True)
class Point:
    """A mark with its words; low, high: a range through it; hollow: a bound rather than a value."""

    x: float
    y: float
    words: str
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """One family's points; marked: each has a mark (else the last one alone); joined: by a line."""

    family: str
    points: tuple[Point, ...]
    marked: bool = True
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of cells, each with a value 0 to 1 and its words; None where nothing is known."""

    family: str
    label: str
    cells: tuple[tuple[float | None, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing: series over two axes with ticks (value -> label), or strips."""

    title: str
    x_name: str = ""
    x_ticks: dict[float, str] = field(default_factory=dict)
    y_ticks: dict[float, str] = field(default_factory=dict)
    series: tuple[Series, ...] = ()
    strips: tuple[Strip, ...] = ()
    chance: float | None = None
    floors: tuple[Point, ...] = ()  # what is reached by guessing, where that differs from place to place

    @property
    def height(self) -> int:
        return 58 + len(self.strips) * (_STRIP + _LABEL + 4) if self.strips else HEIGHT


def drawn(panel: Panel) -> Safe:
    """The panel as one picture."""
    axes = Axes((0, 1), (0, 1), (WIDTH, panel.height), (0, 0, 0, 0))
    return axes.chart(*_parts(panel), title=panel.title, label=f"{panel.title}; {panel.x_name}")


def stand_alone(title: str, panels: Sequence[Panel], names: dict[str, str], columns: int = 3) -> str:
    """All panels in one SVG file, with its title, a legend (family -> name) and its own colours."""
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    top, placed = _HEAD, []
    for row in rows:
        for column, panel in enumerate(row):
            place = f"translate({_GAP + column * (WIDTH + _GAP)} {top})"
            placed.append(el("g", *_parts(panel), transform=place))
        top += max(panel.height for panel in row) + _GAP
    size = _GAP + columns * (WIDTH + _GAP), top
    families = [family for family in names if any(family in _families(panel) for panel in panels)]
    keys = []
    for index, family in enumerate(families):
        mark = _mark(family, 8, 0, "vl-dot", names[family])
        name = el("text", names[family], x=18, y=4)
        keys.append(el("g", mark, name, transform=f"translate({_GAP + 118 * index} 44)"))
    return el(
        "svg",
        el("title", title),
        el("style", Safe(STYLE)),
        el("rect", width=size[0], height=size[1], fill="#ffffff"),
        el("text", title, x=_GAP, y=26, class_="vl-file-title"),
        *keys,
        *placed,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {size[0]} {size[1]}",
        width=size[0],
        height=size[1],
    )


def _families(panel: Panel) -> set[str]:
    return {one.family for one in panel.series} | {one.family for one in panel.strips}


def key(family: str, name: str) -> Safe:
    """A family's mark and name, for a legend in the page."""
    mark = el("svg", _mark(family, 7, 7, "vl-dot", name), viewBox="0 0 14 14", width=14, height=14, aria_hidden="true")
    return el("span", mark, name, class_="vl-family", data_side=COLOUR_OF[family])


def _parts(panel: Panel) -> list[Safe]:
    title = el("text", panel.title, x=0, y=14, class_="vl-panel-title")
    return [title, *(_strips(panel) if panel.strips else _series(panel))]


# ---- series ----------------------------------------------------------------------------------------------------------


def _series(panel: Panel) -> list[Safe]:
    x, y = list(panel.x_ticks), list(panel.y_ticks)
    axes = Axes((min(x), max(x)), (min(y), max(y)), (WIDTH, HEIGHT), _MARGINS)
    if len(x) == 1:
        axes = Axes((x[0] - 1, x[0] + 1), axes.y, axes.size, axes.margins)
    name = el("text", panel.x_name, x=(WIDTH + _MARGINS[0]) // 2, y=HEIGHT - 6, text_anchor="middle")
    parts = [*axes.grid(panel.x_ticks, panel.y_ticks), name]
    if panel.chance is not None:
        parts.append(axes.line(axes.x[0], panel.chance, axes.x[1], panel.chance, "vl-chance"))
    for floor in panel.floors:
        line = axes.line(floor.x - _FLOOR, floor.y, floor.x + _FLOOR, floor.y, "vl-chance")
        parts.append(el("g", el("title", floor.words), line))
    apart = _apart(panel, axes)
    for index, series in enumerate(panel.series):
        shift = apart * (index - (len(panel.series) - 1) / 2) if series.marked else 0.0
        parts.append(_one(series, axes, shift))
    return parts


def _apart(panel: Panel, axes: Axes) -> float:
    """Between marks of several series at one place: all of them stay nearer to it than to the next one."""
    places = sorted({axes.at(point.x, 0.0)[0] for series in panel.series for point in series.points})
    nearest = min((after - before for before, after in pairwise(places)), default=float("inf"))
    return min(_APART, nearest / (2 * max(1, len(panel.series) - 1)))


def _one(series: Series, axes: Axes, shift: float) -> Safe:
    """A series; `shift` sets its marks beside those of others at the same place, in units of the view box."""
    places = [(axes.at(point.x, point.y), point) for point in series.points]
    line = " ".join(f"{x + shift:.1f},{y:.1f}" for (x, y), point in places if series.joined and not point.hollow)
    parts: list[Safe | None] = [el("polyline", points=line, class_="vl-line") if " " in line else None]
    for (x, y), point in places if series.marked else places[-1:]:
        if point.low is not None and point.high is not None and point.low < point.high:
            ends = axes.at(point.x, point.low)[1], axes.at(point.x, point.high)[1]
            at = f"{x + shift:.1f}"
            parts.append(el("line", x1=at, x2=at, y1=f"{ends[0]:.1f}", y2=f"{ends[1]:.1f}", class_="vl-spread"))
        parts.append(_mark(series.family, x + shift, y, "vl-hollow" if point.hollow else "vl-dot", point.words))
    return el("g", *parts, data_side=COLOUR_OF[series.family])


def _mark(family: str, x: float, y: float, class_: str, words: str) -> Safe:
    """A circle, a square or a triangle, so that families differ without colours, too."""
    title, common = el("title", words), {"class_": class_, "data_side": COLOUR_OF[family]}
    if family == "pythia":
        return el("circle", title, cx=f"{x:.1f}", cy=f"{y:.1f}", r="4.5", **common)
    if family == "mamba":
        return el("rect", title, x=f"{x - 4:.1f}", y=f"{y - 4:.1f}", width=8, height=8, **common)
    corners = ((0, -5.4), (5, 4), (-5, 4))
    return el("polygon", title, points=" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners), **common)


# ---- strips ----------------------------------------------------------------------------------------------------------


def _strips(panel: Panel) -> list[Safe]:
    parts, top = [], 24
    for strip in panel.strips:
        each = WIDTH / len(strip.cells)
        parts.append(el("text", strip.label, x=0, y=top + 12))
        cells = [
            el(
                "rect",
                el("title", words),
                x=f"{index * each:.2f}",
                y=top + _LABEL,
                width=f"{each:.2f}",
                height=_STRIP,
                fill_opacity=f"{value:.3f}",
                class_="vl-cell",
            )
            for index, (value, words) in enumerate(strip.cells)
            if value is not None
        ]
        frame = el("rect", x=0, y=top + _LABEL, width=WIDTH, height=_STRIP, class_="vl-cells")
        parts.append(el("g", join(cells), frame, data_side=COLOUR_OF[strip.family]))
        top += _STRIP + _LABEL + 4
    for value, label in panel.x_ticks.items():
        anchor = {0.0: "start", 1.0: "end"}.get(value, "middle")
        parts.append(el("text", label, x=f"{value * WIDTH:.1f}", y=top + 12, text_anchor=anchor))
    parts.append(el("text", panel.x_name, x=WIDTH // 2, y=top + 28, text_anchor="middle"))
    return parts
