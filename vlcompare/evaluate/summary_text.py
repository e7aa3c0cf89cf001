"""A summary as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARK = "*"  # behind an interval of which summary.json's "ci95_notes" says something
_NOT_METRICS = frozenset(("n", "ci95"))


def figures_as_text(summary: Mapping[str, Any]) -> str:
    """What casts doubt on the figures, every figure with its interval, the differences, published figures and notes."""
    sides = summary.get("sides") or {"": {"tasks": summary.get("tasks", {})}}
    lines: list[str] = [f"warning: {alert}" for alert in summary.get("alerts", ())]
    for task in dict.fromkeys(task for side in sides.values() for task in side["tasks"]):
        notes = (summary.get("ci95_notes") or {}).get(task) or {}
        lines += _task(task, sides, summary.get("paired", {}).get(task, {}), summary["n_images"].get(task), notes)
    for row in (summary.get("published") or {}).get("rows", ()):
        lines.append(
            f"published {row['benchmark']}, {row['checkpoint']}: {row['published']:.2f}; "
            f"here {row['ours'] * row['times']:.2f} ({row['difference']:+.2f}); {row['note']}"
        )
    lines += [f"note: {warning}" for warning in summary.get("warnings", ()) if warning not in summary.get("alerts", ())]
    lines += summary.get("submissions", ())
    return "\n".join(lines)


def _task(
    task: str, sides: Mapping[str, Any], paired: Mapping[str, Any], pictures: int, notes: Mapping[str, str]
) -> list[str]:
    figures = {name: side["tasks"][task] for name, side in sides.items() if task in side["tasks"]}
    first = next(iter(figures.values()))
    lines = [f"{task}: {first['n']} rows, {pictures} pictures"]
    for metric in first:
        if metric in _NOT_METRICS:
            continue
        mark = MARK if metric in notes else ""
        cells = [f"{name + ' ' if name else ''}{_figure(values, metric)}{mark}" for name, values in figures.items()]
        if metric in paired:
            low, high = paired[metric]["ci95"]
            cells.append(
                f"difference {_number(paired[metric]['difference'], '+')} "
                f"[{_number(low, '+')}, {_number(high, '+')}]{mark}"
            )
        lines.append(f"  {metric:<14} " + "   ".join(cells))
    for note in dict.fromkeys(notes.values()):
        of = [metric for metric in notes if notes[metric] == note]
        about = "" if len(of) == len(first) - len(_NOT_METRICS) else f" ({', '.join(of)})"
        lines.append(f"  {MARK} {note}{about}.")
    return lines


def _figure(values: Mapping[str, Any], metric: str) -> str:
    low, high = values["ci95"][metric]
    return f"{_number(values[metric])} [{_number(low)}, {_number(high)}]"


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"
