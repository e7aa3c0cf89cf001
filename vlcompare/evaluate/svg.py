"""Charts as inline SVG texts for the report. Numbers and labels in, SVG out; every label is escaped. Knows no runs.

Colours are the ones that boxes have on pictures (blue and orange of Okabe and Ito's palette, told apart by anyone).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

LEFT, RIGHT, GREY, INK, BOTH, NEITHER = "#0072b2", "#e69f00", "#c8ccd0", "#333", "#009e73", "#8a9096"
_QUADRANT_COLORS = {"both": BOTH, "only_left": LEFT, "only_right": RIGHT, "neither": NEITHER}
WIDTH = 640
_TICKS = ((0.01, "0"), (0.5, "0.5"), (0.99, "1"))


def quadrant_bar(counts: dict[str, int], names: tuple[str, str]) -> str:
    """One bar, split by who is right."""
    total = sum(counts.values()) or 1
    titles = {
        "both": "both right",
        "only_left": f"only {names[0]}",
        "only_right": f"only {names[1]}",
        "neither": "both wrong",
    }
    parts, x = [], 0.0
    for name, count in counts.items():
        width = WIDTH * count / total
        parts.append(
            f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="28" fill="{_QUADRANT_COLORS[name]}">'
            f"<title>{escape(titles[name])}: {count}</title></rect>"
        )
        x += width
    legend, x = [], 0.0
    for name, count in counts.items():
        text = f"{titles[name]}: {count} ({100 * count / total:.1f} %)"
        legend.append(
            f'<rect x="{x % WIDTH:.0f}" y="{40 + 20 * (x // WIDTH):.0f}" width="12" height="12" '
            f'fill="{_QUADRANT_COLORS[name]}"/>{_text(x % WIDTH + 18, 50 + 20 * (x // WIDTH), text)}'
        )
        x += WIDTH / 2
    return _svg(WIDTH, 84, "".join(parts + legend), "Who is right")


def scatter(points: Sequence[tuple[float, float]], names: tuple[str, str], title: str) -> str:
    """Each sample's two scores, 0..1; the diagonal is where they are equal."""
    side, pad = 320, 44
    dots = "".join(
        f'<circle cx="{pad + side * min(1, max(0, x)):.1f}" cy="{10 + side * (1 - min(1, max(0, y))):.1f}" r="2.4"/>'
        for x, y in points
    )
    ticks = "".join(
        _text(pad + side * t, side + 26, f"{t:g}", "middle") + _text(pad - 6, 14 + side * (1 - t), f"{t:g}", "end")
        for t in (0, 0.5, 1)
    )
    frame = (
        f'<rect x="{pad}" y="10" width="{side}" height="{side}" fill="none" stroke="{GREY}"/>'
        f'<line x1="{pad}" y1="{10 + side}" x2="{pad + side}" y2="10" stroke="{GREY}" stroke-dasharray="4 4"/>'
    )
    labels = _text(pad + side / 2, side + 44, names[0], "middle") + (
        f'<g transform="rotate(-90 12 {10 + side / 2})">{_text(12, 10 + side / 2, names[1], "middle")}</g>'
    )
    body = f'{frame}<g fill="{LEFT}" fill-opacity="0.35">{dots}</g>{ticks}{labels}'
    return _svg(side + pad + 16, side + 54, body, title)


def histogram(left: Sequence[float], right: Sequence[float] | None, names: tuple[str, str], bins: int = 20) -> str:
    """How the scores 0..1 of each side are spread."""
    counts = [_binned(left, bins), _binned(right, bins) if right is not None else []]
    top = max([1, *counts[0], *counts[1]])
    height, pad = 160, 24
    step = (WIDTH - pad) / bins
    bars = []
    for index, (values, color) in enumerate(zip(counts, (LEFT, RIGHT), strict=True)):
        width = step * (0.42 if right is not None else 0.84)
        for i, count in enumerate(values):
            tall = height * count / top
            x = pad + step * i + index * width + step * 0.08
            bars.append(
                f'<rect x="{x:.1f}" y="{10 + height - tall:.1f}" width="{width:.1f}" height="{tall:.1f}" '
                f'fill="{color}">'
                f"<title>{escape(names[index])}, {i / bins:.2f} to {(i + 1) / bins:.2f}: {count}</title></rect>"
            )
    axis = f'<line x1="{pad}" y1="{10 + height}" x2="{WIDTH}" y2="{10 + height}" stroke="{INK}"/>'
    ticks = "".join(_text(pad + (WIDTH - pad) * at, height + 26, name, "middle") for at, name in _TICKS)
    return _svg(WIDTH, height + 34, "".join(bars) + axis + ticks, "Scores")


def difference_rows(rows: Sequence[tuple[str, float, float, float]], reach: float) -> str:
    """Labelled differences with their intervals around zero: (label, low, value, high), axis from -reach to reach."""
    label, line = 250, 22
    middle, half = label + (WIDTH - label) / 2, (WIDTH - label) / 2 - 10
    reach = max(reach, 1e-9)

    def x(value: float) -> float:
        return middle + half * max(-1.0, min(1.0, value / reach))

    parts = [f'<line x1="{middle}" y1="4" x2="{middle}" y2="{8 + line * len(rows)}" stroke="{GREY}"/>']
    for i, (name, low, value, high) in enumerate(rows):
        y = 18 + line * i
        color = LEFT if low > 0 else RIGHT if high < 0 else INK
        parts.append(_text(label - 8, y + 4, name, "end"))
        parts.append(
            f'<line x1="{x(low):.1f}" y1="{y}" x2="{x(high):.1f}" y2="{y}" stroke="{color}" stroke-width="2"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="4" fill="{color}"><title>{escape(name)}: {value:+.3f} '
            f"[{low:+.3f}, {high:+.3f}]</title></circle>"
        )
    bottom = 26 + line * len(rows)
    for value in (-reach, 0.0, reach):
        parts.append(_text(x(value), bottom, f"{value:+.2g}" if value else "0", "middle"))
    return _svg(WIDTH, bottom + 8, "".join(parts), "Differences")


def _binned(values: Sequence[float], bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value * bins)))] += 1
    return counts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    short = text if len(text) <= 48 else text[:47] + "…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(short)}</text>'


def _svg(width: float, height: float, body: str, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(title)}" '
        f'font-size="12" fill="{INK}">{body}</svg>'
    )
