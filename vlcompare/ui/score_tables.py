"""What is known of how often two checkpoints are right, beside each other: as published, or on held-out scenes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from vlcompare.render.markup import Safe, el
from vlcompare.render.terms import term
from vlcompare.runtime.loading.registry import Checkpoint, registry
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES
from vlcompare.ui.checkpoint_names import lookup
from vlcompare.units import decimal

CHANCE = {"multiple_choice": " (chance 0.25)", "pointing": " (chance 0.25)"}  # four options each


def scores_table(left: str, right: str) -> Safe:
    """The two checkpoints' scores beside each other, with their source; doubtful ones are marked."""
    rows = [lookup(left), lookup(right)]
    reports = [_held_out(row.folder) if row and row.folder else None for row in rows]
    if None not in reports:
        with suppress(LookupError, TypeError, ValueError, AttributeError):  # of another shape than `train` writes
            return _on_scenes(rows, reports)
    if any(row and row.scores for row in rows):
        return _as_published(rows)
    return el(
        "p",
        "Nothing is known about these two: scores were published for the finetuned checkpoints, and the embedded pair "
        "was scored on drawn scenes.",
        class_="vl-empty",
    )


def _as_published(rows: Sequence[Checkpoint | None]) -> Safe:
    known = registry()
    lines, doubts = [], []
    for benchmark in known.benchmarks:
        values = [row.scores.get(benchmark.name) if row and row.scores else None for row in rows]
        if not any(value is not None for value in values):
            continue
        marks: list[Safe | None] = []
        for row in rows:
            doubt = row.doubtful.get(benchmark.name) if row else None
            if doubt and row:
                doubts.append(f"{row.title}, {benchmark.name}: {doubt}")
            marks.append(el("abbr", "?", title=doubt, class_="vl-doubt") if doubt else None)
        lines.append(_line(benchmark.name, values, marks))
    source = el(
        "p",
        "As published: ",
        el("a", known.score_source, href=known.score_url, rel="noreferrer"),
        ". ",
        *[el("span", "? ", doubt, ". ") for doubt in doubts],
        class_="vl-note",
    )
    return el("div", _table("Benchmark", rows, lines), source)


@cache
def _held_out(folder: Path) -> dict[str, Any] | None:
    """The report beside an embedded checkpoint's weights; None where none can be read."""
    try:
        return json.loads((folder / "scores.json").read_text(encoding="utf-8")) or None
    except (OSError, ValueError, RecursionError):
        return None


def _on_scenes(rows: Sequence[Checkpoint | None], reports: Sequence[dict[str, Any] | None]) -> Safe:
    if reports[0]["scenes"] != reports[1]["scenes"]:  # type: ignore[index]
        raise ValueError("The two were scored on different scenes.")
    lines = []
    for task, metric in reports[0]["main"].items():  # type: ignore[index]
        values, intervals = [], []
        for row, report in zip(rows, reports, strict=True):
            found = report["sides"][row.family][task]  # type: ignore[index, union-attr]
            low, high = found["ci95"][metric]
            values.append(found[metric])
            intervals.append(el("small", f"{decimal(low)} to {decimal(high)}"))
        label = [SPECS[task].title, CHANCE.get(task, ""), " ", el("small", term(metric, metric.replace("_", " ")))]
        lines.append(_line(label, values, intervals))
    scenes = reports[0]["scenes"]  # type: ignore[index]
    source = (
        f"On {scenes['count']} drawn scenes that neither has seen, with 95 % intervals over them; 1 is best. The run "
        "that is named below an answer is a smaller one."
    )
    return el("div", _table("Task", rows, lines), el("p", source, class_="vl-note"))


def _line(label: object, values: Sequence[float | None], marks: Iterable[Safe | None]) -> Safe:
    """A row: both values, the higher one marked, each with what stands behind it; and their difference."""
    known = [value for value in values if value is not None]
    best = max(known) if len(known) == len(values) else None
    cells = [
        el("td", decimal(value), " ", mark, class_="vl-best" if value is not None and value == best else None)
        for value, mark in zip(values, marks, strict=True)
    ]
    difference = "" if best is None else decimal(known[0] - known[1], signed=True)
    return el("tr", el("th", label, scope="row"), *cells, el("td", difference, class_="vl-diff"))


def _table(first: str, rows: Sequence[Checkpoint | None], lines: Sequence[Safe]) -> Safe:
    titles = [
        el("th", row.title if row else "–", scope="col", data_side=side) for row, side in zip(rows, SIDES, strict=True)
    ]
    head = el("tr", el("th", first, scope="col"), *titles, el("th", "left − right", scope="col"))
    return el("div", el("table", el("thead", head), el("tbody", *lines), class_="vl-table"), class_="vl-scroll")
