"""The figures of the inspect page as tables: where the sides differ most, slices, and every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlcompare.evaluate.results.aspects import Aspect
from vlcompare.evaluate.results.differences import LEAST_ROWS, METHOD, Difference
from vlcompare.evaluate.results.slices import (
    ShareRow,
    SliceRow,
    share_figures,
    slice_figures,
)
from vlcompare.evaluate.results.table import RunTable
from vlcompare.evaluate.statistics import Interval
from vlcompare.render.charts import interval, share
from vlcompare.render.markup import Safe, el, join
from vlcompare.render.terms import known_term, term
from vlcompare.tasks.prompts import task_title
from vlcompare.ui.inspect.query import Query, chips
from vlcompare.ui.inspect.selection import Names, Opened, Selection
from vlcompare.units import fraction, fraction_interval

_INTERVAL = term("interval", "95 % interval")
MAX_SLICES = 60
UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Figures:
    """A set of samples under one metric: each side's mean, and left - right where there are two; nan where unknown."""

    name: str
    n: int
    n_images: int
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    difference: float = math.nan
    ci95: Interval = UNKNOWN  # of the difference
    metric: str = ""
    settled: bool = True  # whether an interval without 0 is enough to name a side


def of_summary(summary: Mapping[str, Any], roles: Mapping[str, str]) -> list[Figures]:
    """Every task's main metric over all rows, as summary.json has it. roles: "left" or "right" -> the run's side."""
    sides, paired = summary.get("sides") or {}, summary.get("paired") or {}
    figures = []
    for task, metric in (summary.get("main") or {}).items():
        own = {role: ((sides.get(side) or {}).get("tasks") or {}).get(task) or {} for role, side in roles.items()}
        pair = (paired.get(task) or {}).get(metric) or {}
        figures.append(
            Figures(
                name=task_title(task),
                n=max((int(recorded.get("n") or 0) for recorded in own.values()), default=0),
                n_images=int((summary.get("n_images") or {}).get(task) or 0),
                values={role: _number(recorded.get(metric)) for role, recorded in own.items()},
                intervals={role: _interval((recorded.get("ci95") or {}).get(metric)) for role, recorded in own.items()},
                difference=_number(pair.get("difference")),
                ci95=_interval(pair.get("ci95")),
                metric=str(metric),
            )
        )
    return figures


def of_slice(row: SliceRow) -> Figures:
    """The share of a slice's rows that are right, and the paired difference."""
    values, intervals = {"left": row.left}, {"left": row.left_ci95}
    if row.right is not None and row.right_ci95 is not None:
        values["right"], intervals["right"] = row.right, row.right_ci95
    pair = (row.paired.difference, row.paired.ci95) if row.paired else ()
    return Figures(row.value, row.n, row.n_images, values, intervals, *pair)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _interval(value: Any) -> Interval:
    return Interval(*map(_number, value)) if isinstance(value, (list, tuple)) and len(value) == 2 else UNKNOWN


# ---- where the sides differ most -------------------------------------------------------------------------------------


def differences(ranked: Sequence[tuple[Difference, SliceRow]], count: int, names: Names, query: Query) -> Safe:
    """Slices by the size of their difference, each a button that filters. count: how many were tested."""
    title = el("h2", "Where they differ most", class_="vl-section")
    over = el("p", "Among all slices, whichever is chosen above.", class_="vl-note") if query.slices else None
    if not names.both:
        return el("div", title, el("p", "Choose a second side to see where the two differ.", class_="vl-empty"))
    if not ranked:
        sentence = f"No slice narrows this selection to {LEAST_ROWS} samples or more."
        return el("div", title, el("p", sentence, class_="vl-empty"))
    clear = [row for one, row in ranked if one.clear]
    others = [row for one, row in ranked if not one.clear]
    known = {(one.aspect, one.value): one for one, _ in ranked}
    tested, luck = "the only slice tested", "it is the only slice tested"
    if count > 1:
        tested = f"among {count:,} slices tested"
        luck = f"of {count:,} slices tested, some look this different by luck, whatever their own interval says"
    not_clear = "Not clear of chance" if clear else "None is clear of chance"
    groups: list[tuple[Any, list[SliceRow]]] = [
        (join([term("clear of chance", "Clear of chance"), f", {tested}"]), clear),
        (join([term("clear of chance", not_clear), f": {luck}"]), others),
    ]

    def first(row: Figures) -> Safe:
        aspect, _, value = row.name.partition("|")
        one = known[aspect, value]
        return el("th", _slice_button(aspect, value, query, one.value_title, one.title), scope="row")

    shown = [(name, [_named(row, rows is clear) for row in rows]) for name, rows in groups if rows]
    how = el("details", el("summary", "How this is tested"), el("p", METHOD, class_="vl-note"), class_="vi-fold")
    return el("div", title, over, _table(shown, names, "Slice", first), how)


def _named(row: SliceRow, clear: bool) -> Figures:
    return replace(of_slice(row), name=f"{row.aspect}|{row.value}", settled=clear)


# ---- slices ----------------------------------------------------------------------------------------------------------


def slices(opened: Opened, names: Names, dimension: str, selection: Selection) -> Safe:
    """Each slice of a dimension as a button that filters: its accuracy, or its share of what the outcome selects."""
    table, query = opened.table, selection.query
    if dimension not in table.aspects:
        return el("p", "No sample here says anything about this.", class_="vl-empty")
    aspect = table.aspects[dimension]
    if query.outcome.narrowed:
        return _shares(table, aspect, selection)
    rows = [of_slice(row) for row in slice_figures(table, dimension, selection.base)]
    if not rows:
        return el("p", "No sample here says anything about this.", class_="vl-empty")

    def first(row: Figures) -> Safe:
        return el("th", _slice_button(dimension, row.name, query, aspect.value_title(row.name)), scope="row")

    return el("div", _table([("", rows[:MAX_SLICES])], names, aspect.title, first), _more(len(rows)))


def _shares(table: RunTable, aspect: Aspect, selection: Selection) -> Safe:
    """How much of each slice the outcome's filters select; rates within the selection would be true by construction."""
    outcome = selection.query.outcome
    rows = share_figures(table, aspect.name, selection.base, selection.rows)
    what = ", ".join(text for text, _ in chips(outcome))
    side = {"only_left": "left", "only_right": "right"}.get(outcome.quadrant)
    sentence = f"How much of each slice is “{what}”, with its 95 % interval."
    if not rows:
        return el("p", "No sample here says anything about this.", class_="vl-empty")
    head = (aspect.title, "samples", "of these", "share", _INTERVAL)
    cells = [el("th", name, scope="col", class_="vi-number" if 0 < i < 4 else None) for i, name in enumerate(head)]
    body = [_share_line(row, aspect.value_title(row.value), side, selection.query) for row in rows[:MAX_SLICES]]
    shown = el("table", el("thead", el("tr", *cells)), el("tbody", *body), class_="vl-table vi-table vi-shares")
    note = el("p", sentence, class_="vl-note", data_shares="true")
    return el("div", note, el("div", shown, class_="vl-scroll"), _more(len(rows)))


def _share_line(row: ShareRow, label: str, side: str | None, query: Query) -> Safe:
    span = el("span", fraction_interval(*row.ci95), class_="vi-span")
    return el(
        "tr",
        el("th", _slice_button(row.aspect, row.value, query, label), scope="row"),
        el("td", f"{row.n:,}", class_="vi-number", title=f"{row.n:,} samples of {pictures_of(row.n_images)}"),
        el("td", f"{row.count:,}", class_="vi-number"),
        el("td", fraction(row.share), class_="vi-number"),
        el("td", share(row.share, *row.ci95, side), span, class_="vi-whiskers") if told(row.ci95) else _too_few(),
    )


def _slice_button(dimension: str, value: str, query: Query, label: str, title: str = "") -> Safe:
    return el(
        "button",
        el("small", f"{title}: ") if title else None,
        label,
        type="button",
        data_pick=f"slice:{dimension}|{value}",
        aria_pressed="true" if (dimension, value) in query.slices else "false",
        class_="vi-link",
    )


def _more(count: int) -> Safe | None:
    more = count - MAX_SLICES
    return el("p", f"{more} smaller slices are not shown.", class_="vl-note") if more > 0 else None


# ---- tables ----------------------------------------------------------------------------------------------------------


def figures_table(rows: Sequence[Figures], names: Names) -> Safe:
    """Every task's main metric: each side with its interval, and the paired difference."""

    def task(row: Figures) -> Safe:
        return el("th", row.name, el("small", known_term(row.metric)), scope="row")

    return _table([("", rows)], names, "Task", task)


def _table(
    groups: Sequence[tuple[Safe | str, Sequence[Figures]]],
    names: Names,
    title: str,
    first: Callable[[Figures], Safe],
) -> Safe:
    """Rows of figures in groups, each under its heading."""
    everything = [row for _, rows in groups for row in rows]
    reaches = [value for row in everything for value in (row.difference, *(row.ci95 if told(row.ci95) else ()))]
    reaches = [value for value in reaches if math.isfinite(value)]
    reach = max(map(abs, reaches), default=1.0)
    head = [el("th", title, scope="col"), el("th", "samples", scope="col", class_="vi-number vi-n")]
    head += [el("th", side, scope="col", data_side=side, class_="vi-number") for side in names.sides]
    if names.both:
        difference = term("paired difference", "difference")
        head += [el("th", difference, scope="col", class_="vi-number"), el("th", _INTERVAL, scope="col")]
    body = []
    for name, rows in groups:
        if name:
            body.append(el("tr", el("th", name, colspan=str(len(head)), scope="rowgroup"), class_="vi-group"))
        body += [_line(row, names, first, reach) for row in rows]
    table = el("table", el("thead", el("tr", *head)), el("tbody", *body), class_="vl-table vi-table")
    return el("div", table, class_="vl-scroll")


def _line(row: Figures, names: Names, first: Callable[[Figures], Safe], reach: float) -> Safe:
    pictures = f"{row.n:,} samples of {pictures_of(row.n_images)}"
    cells = [first(row), el("td", f"{row.n:,}", class_="vi-number vi-n", title=pictures)]
    for side in names.sides:
        mean, (low, high) = row.values.get(side, math.nan), row.intervals.get(side, UNKNOWN)
        span = f"95 % interval {fraction_interval(low, high)}" if math.isfinite(low) else None
        cells.append(el("td", fraction(mean), class_="vi-number", title=span))
    if names.both:
        cells += _difference(row, reach)
    return el("tr", *cells)


def _difference(row: Figures, reach: float) -> list[Safe]:
    if not math.isfinite(row.difference):
        return [el("td", "–", class_="vi-number"), el("td")]
    number = el("td", fraction(row.difference, signed=True), class_="vi-number")
    if not told(row.ci95):
        return [number, _too_few()]
    span = el("span", fraction_interval(*row.ci95), class_="vi-span")
    chart = interval(row.difference, *row.ci95, reach, settled=row.settled)
    return [number, el("td", chart, span, class_="vi-whiskers")]


def told(ci95: Interval) -> bool:
    """Whether there is an interval, and it is less than everything that is possible."""
    return all(map(math.isfinite, ci95)) and not ci95.says_nothing


def _too_few() -> Safe:
    return el("td", "too few pictures", class_="vl-muted")


def pictures_of(count: int) -> str:
    return f"{count:,} picture" if count == 1 else f"{count:,} pictures"
