"""Small charts as SVG: time to first token in its parts, latency per token, memory over tokens. Both sides, one axis.

Knows answers; knows nothing of pages. Colours come from the page's style sheet, so the same markup serves light and
dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlcompare.render.markup import Safe, el, join, milliseconds, size
from vlcompare.types import Answer

WIDTH, HEIGHT = 340, 170  # about the size at which it is shown, so that its text is as large as the page's
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 22


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: points in data space, its side's colour, dashed for a formula, dots for what was measured."""

    side: str
    points: Sequence[tuple[float, float]]
    style: str = "line"  # "line"; "dash": a formula; "measured": a line that ends in a dot
    name: str = ""


def latency_chart(gaps: Mapping[str, Sequence[float]]) -> Safe:
    """Milliseconds before the second and every further token; the first is in the chart of first tokens."""
    lines = [Line(side, [(i + 2, gap) for i, gap in enumerate(own)], name=side) for side, own in gaps.items() if own]
    return plot(lines, "Milliseconds before each token", milliseconds, start=2)


def memory_chart(answers: Mapping[str, Answer | None], curves: Mapping[str, Sequence[tuple[float, float]]]) -> Safe:
    """Cache or state over the positions seen: measured at every token as a line, the formula dashed from the start.

    curves: side -> (positions, bytes) by the formula.
    """
    lines = []
    for side, answer in answers.items():
        if answer is None or answer.prompt is None:
            continue
        if curves.get(side):
            lines.append(Line(side, curves[side], "dash"))
        start = len(answer.prompt.ids)
        measured = [(start + index, count) for index, count in enumerate(answer.memory.state_trace)]
        if not measured and answer.memory.state_bytes:
            measured = [(positions_of(answer), answer.memory.state_bytes)]
        if measured:
            lines.append(Line(side, measured, "measured", side))
    return plot(lines, "Bytes of cache or state over positions", size)


def positions_of(answer: Answer) -> int:
    """How many positions the cache or state had seen at the end: the last token is not run through it."""
    return len(answer.prompt.ids if answer.prompt else ()) + max(0, len(answer.tokens) - 1)


def first_token_bars(answers: Mapping[str, Answer | None]) -> Safe:
    """Time to first token, one bar a side on one axis: preparing the picture, vision encoder, prefill, the rest."""
    rows = []
    for side, answer in answers.items():
        if answer and answer.timings.ttft_ms:
            t = answer.timings
            parts = [("picture", t.image_ms), ("vision", t.vision_ms), ("prefill", t.prefill_ms)]
            rest = t.ttft_ms - sum(value for _, value in parts)
            rows.append((side, t.ttft_ms, [*parts, ("first token", max(0.0, rest))]))
    longest = max((total for _, total, _ in rows), default=0.0)
    if not longest:
        return el("p", "No first token was measured.", class_="vl-empty")
    bars = []
    for side, total, parts in rows:
        pieces = [
            el(
                "span",
                class_=f"vl-piece vl-piece-{index}",
                style=f"width:{100 * value / longest:.2f}%",
                title=f"{name}: {milliseconds(value)}",
            )
            for index, (name, value) in enumerate(parts)
        ]
        bars.append(
            el(
                "div",
                el("span", *pieces, class_="vl-bar", data_side=side),
                el("span", milliseconds(total), class_="vl-bar-total"),
                class_="vl-bar-row",
            )
        )
    names = ("picture", "vision", "prefill", "first token")
    legend = [el("span", el("i", class_=f"vl-piece vl-piece-{i}"), name) for i, name in enumerate(names)]
    return el("div", *bars, el("div", *legend, class_="vl-legend"), class_="vl-bars")


def plot(lines: Sequence[Line], title: str, y_text: Callable[[float], str], *, start: float = 0.0) -> Safe:
    """Curves over a common axis from zero, with a title that says what is drawn; a sentence where nothing is."""
    points = [point for line in lines for point in line.points]
    if not points:
        return el("p", "Nothing to draw: no second token.", class_="vl-empty")
    x_ticks = ticks(min(start, min(x for x, _ in points)), max(x for x, _ in points), 6, whole=True)
    y_ticks = ticks(0.0, max(y for _, y in points) or 1.0, 4)
    x0, x1, y1 = x_ticks[0], max(x_ticks[-1], x_ticks[0] + 1), y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x - x0) / (x1 - x0)
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / y1

    parts = [el("title", title)]
    for value in y_ticks:
        _, y = place(x0, value)
        parts.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="vl-grid"))
        parts.append(el("text", y_text(value), x=LEFT - 8, y=f"{y + 4:.1f}", text_anchor="end"))
    for value in x_ticks:
        x, _ = place(value, 0)
        parts.append(el("text", f"{value:,.0f}", x=f"{x:.1f}", y=HEIGHT - 5, text_anchor="middle"))
    for line in lines:
        parts.append(_curve(line, [place(x, y) for x, y in line.points]))
    return el("svg", join(parts), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title, class_="vl-chart")


def _curve(line: Line, places: Sequence[tuple[float, float]]) -> Safe:
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    kind = {"dash": "vl-line vl-dash", "measured": "vl-line vl-measured"}.get(line.style, "vl-line")
    curve = el("polyline", points=drawn, class_=kind, data_side=line.side) if len(places) > 1 else None
    if line.style != "measured" and len(places) > 1:
        return join([curve])
    x, y = places[-1]
    dot = el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5 if line.side == "left" else 4)
    return el("g", curve, dot, class_="vl-dots", data_side=line.side)


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
