"""Numbers, durations, sizes and lists as texts, which the page, the command line and messages write alike."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float, digits: int = 1) -> str:
    """A figure: `digits` decimals below 100, none above."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def how_many(count: int, noun: str) -> str:
    """A count of something whose plural takes an s: 0 rows, 1 row, 2 rows."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def listed(parts: Sequence[str]) -> str:
    """`x`, `x and y`, or `x, y and z`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def milliseconds(value: float) -> str:
    """A duration: "8.4 ms", "1.2 s"."""
    if value >= 10_000:
        return f"{value / 1000:.0f} s"
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{number(value)} ms"


def format_bytes(count: float) -> str:
    """Bytes in decimal units: "14.3 GB", "310 MB", "12 MB", "9.0 KB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        value = count / scale
        if value >= 1:
            return f"{value:.1f} {unit}" if value < (100 if unit == "GB" else 10) else f"{value:,.0f} {unit}"
    return f"{count:.0f} B"


def short_count(value: int) -> str:
    """A round count for an axis: "500", "20 k", "1 M"; what is below the last whole unit is left out."""
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value // unit} {name}"
    return str(value)


def fraction(value: float, *, signed: bool = False) -> str:
    """A share or a difference of shares as papers print it: ".908", "1.000", with a sign "+.119"; "–" for none."""
    if not math.isfinite(value):
        return "–"
    shown = f"{abs(value):.3f}"
    sign = "−" if value < 0 and float(shown) else "+" if signed else ""
    return sign + shown.removeprefix("0")


def decimal(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """One answer's figure, or a difference of two: "0.75", with a sign "+0.21" or "−0.21"; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    shown = f"{abs(value):,.{digits}f}"
    below = value < 0 and any(digit in "123456789" for digit in shown)
    return ("−" if below else "+" if signed else "") + shown


def fraction_interval(low: float, high: float) -> str:
    """An interval of shares: "[.070, .171]"; "" where it is not known."""
    return f"[{fraction(low)}, {fraction(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
