"""A summary as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlcompare import terminal
from vlcompare.units import fraction, fraction_interval, how_many

MARK = "*"  # behind an interval of which summary.json's "ci95_notes" says something
_NOT_METRICS = frozenset(("n", "ci95"))


def figures_as_text(summary: Mapping[str, Any]) -> str:
    """What casts doubt on the figures, every figure with its interval, the differences, published figures and notes."""
    sides = summary.get("sides") or {"": {"tasks": summary.get("tasks", {})}}
    lines: list[str] = [terminal.wrapped(f"warning: {alert}", "  ") for alert in summary.get("alerts", ())]
    for task in dict.fromkeys(task for side in sides.values() for task in side["tasks"]):
        notes = (summary.get("ci95_notes") or {}).get(task) or {}
        lines += _task(task, sides, summary.get("paired", {}).get(task, {}), summary["n_images"].get(task), notes)
    for row in (summary.get("published") or {}).get("rows", ()):
        published = (
            f"published {row['benchmark']}, {row['checkpoint']}: {row['published']:.2f}; "
            f"here {row['ours'] * row['times']:.2f} ({row['difference']:+.2f}); {row['note']}"
        )
        lines.append(terminal.wrapped(published, "  "))
    told = summary.get("alerts", ())
    others = [warning for warning in summary.get("warnings", ()) if warning not in told]
    lines += ["", *(terminal.wrapped(f"note: {warning}", "  ") for warning in others)]
    lines += summary.get("submissions", ())
    return "\n".join(lines).strip()


def _task(
    task: str, sides: Mapping[str, Any], paired: Mapping[str, Any], pictures: int, notes: Mapping[str, str]
) -> list[str]:
    figures = {name: side["tasks"][task] for name, side in sides.items() if task in side["tasks"]}
    first = next(iter(figures.values()))
    rows = [["", *figures, *(["difference"] if paired else [])]] if len(figures) > 1 else []
    for metric in first:
        if metric in _NOT_METRICS:
            continue
        mark = MARK if metric in notes else ""
        row = [metric, *(_figure(values[metric], values["ci95"][metric]) + mark for values in figures.values())]
        if paired:
            row.append(_figure(paired[metric]["difference"], paired[metric]["ci95"], signed=True) + mark)
        rows.append(row)
    lines = ["", f"{task}: {_counted(first['n'], pictures)}", terminal.table(rows)]
    for note in dict.fromkeys(notes.values()):
        of = [metric for metric in notes if notes[metric] == note]
        about = "" if len(of) == len(first) - len(_NOT_METRICS) else f" ({', '.join(of)})"
        lines.append(terminal.wrapped(f"{MARK} {note}{about}.", "  "))
    return lines


def _counted(rows: int, pictures: int) -> str:
    return f"{how_many(rows, 'row')}, {how_many(pictures, 'picture')}"


def _figure(value: float | None, ci95: Sequence[float | None], *, signed: bool = False) -> str:
    low, high = (math.nan if bound is None else bound for bound in ci95)
    interval = fraction_interval(low, high).replace(" ", terminal.NO_BREAK)
    return f"{fraction(math.nan if value is None else value, signed=signed)} {interval}".rstrip()
