"""What the inspect page shows of a run as a whole, as markup: figures, quadrants, slices, the table and its filters.

Pure functions of plain values. Knows nothing of gradio; all text goes through `markup.el`, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlcompare.render.charts import interval
from vlcompare.render.markup import Safe, el, shorten
from vlcompare.ui.inspect.query import PAGE_ROWS, QUADRANTS, Query, chips, pages

MOST_SLICES = 60
SHORT = 90  # characters of a text in a table row


@dataclass(frozen=True, slots=True)
class Names:
    """How the run and its sides are called."""

    run: str
    sides: Mapping[str, str]  # side -> its model, in the order shown

    @property
    def both(self) -> bool:
        return len(self.sides) == 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One side's answer in a row of the table."""

    said: str = ""
    right: bool | None = None
    score: float | None = None
    iou: float | None = None
    confidence: float | None = None
    state: str = "ok"  # "ok", "missing", "error", "unparseable"


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table."""

    row: int
    id: str
    task: str
    text: str
    cells: Mapping[str, Cell]
    gap: float | None = None
    expected: str = ""
    noted: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """A set of samples under one metric: each side's mean, and left - right with its interval where there are two."""

    name: str
    n: int
    n_images: int
    values: Mapping[str, float]
    difference: float | None = None
    low: float = math.nan
    high: float = math.nan
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    metric: str = ""


def nothing(sentence: str) -> Safe:
    """What stands where no run is open."""
    return el("div", el("p", sentence, class_="vl-empty"), class_="vi-nothing")


def to_be_computed() -> Safe:
    """In place of figures that take a while and that nobody has asked for yet."""
    button = el("button", "Compute them", type="button", data_pick="figures:", class_="vi-chip")
    return el("p", "These two sides have no summary yet. ", button, class_="vl-empty")


# ---- the run ---------------------------------------------------------------------------------------------------------


def head(names: Names, facts: Mapping[str, Any]) -> Safe:
    """The run's name, its sides, what it was made from, and what to beware of."""
    sides = [
        el(
            "span",
            el("i", class_="vl-key", data_side=side),
            el("b", title),
            el("span", facts["settings"].get(side, ""), class_="vl-muted"),
            class_="vi-side-name",
        )
        for side, title in names.sides.items()
    ]
    about = el("p", facts["about"], class_="vl-note")
    notes = [el("li", sentence) for sentence in facts.get("warnings", ())]
    caution = (
        el(
            "details",
            el("summary", f"{len(notes)} {'thing' if len(notes) == 1 else 'things'} to know about these figures"),
            el("ul", *notes),
            class_="vi-warnings",
        )
        if notes
        else None
    )
    problem = el("p", facts["problem"], class_="vl-warn") if facts.get("problem") else None
    return el(
        "div", el("h2", names.run, class_="vi-run"), el("div", *sides, class_="vi-sides"), about, problem, caution
    )


def figures_table(rows: Sequence[Figures], names: Names) -> Safe:
    """Every task's main metric: each side with its interval, and the paired difference."""
    return _table(rows, names, "Task", lambda row: el("th", row.name, el("small", row.metric), scope="row"))


def slices_table(rows: Sequence[Figures], names: Names, dimension: str, title: str, query: Query) -> Safe:
    """Each slice of a dimension as a button that filters, with its figures."""
    if not rows:
        return el("p", "No sample here says anything about this.", class_="vl-empty")

    def first(row: Figures) -> Safe:
        pressed = (dimension, row.name) in query.slices
        button = el(
            "button",
            row.name.replace("_", " ") if dimension == "task" else row.name,
            type="button",
            data_pick=f"slice:{dimension}|{row.name}",
            aria_pressed="true" if pressed else "false",
            class_="vi-link",
        )
        return el("th", button, scope="row")

    more = len(rows) - MOST_SLICES
    rest = el("p", f"{more} smaller slices are not shown.", class_="vl-note") if more > 0 else None
    return el("div", _table(rows[:MOST_SLICES], names, title, first), rest)


def _table(rows: Sequence[Figures], names: Names, title: str, first: Any) -> Safe:
    differences = [v for row in rows for v in (row.difference, row.low, row.high) if v is not None and math.isfinite(v)]
    reach = max((abs(value) for value in differences), default=1.0)
    head_cells = [el("th", title, scope="col"), el("th", "samples", scope="col", class_="vi-number")]
    head_cells += [el("th", side, scope="col", data_side=side, class_="vi-number") for side in names.sides]
    if names.both:
        head_cells += [
            el("th", "left − right", scope="col", class_="vi-number"),
            el("th", "95 % interval", scope="col"),
        ]
    body = []
    for row in rows:
        pictures = f"{row.n:,} samples of {row.n_images:,} pictures"
        cells = [first(row), el("td", f"{row.n:,}", class_="vi-number", title=pictures)]
        for side in names.sides:
            low, high = row.intervals.get(side, (math.nan, math.nan))
            span = f"95 % interval {low:.3f} to {high:.3f}" if math.isfinite(low) else None
            cells.append(el("td", value(row.values.get(side)), class_="vi-number", title=span))
        if names.both:
            cells += _difference(row, reach)
        body.append(el("tr", *cells))
    table = el("table", el("thead", el("tr", *head_cells)), el("tbody", *body), class_="vl-table vi-table")
    return el("div", table, class_="vl-scroll")


def _difference(row: Figures, reach: float) -> list[Safe]:
    if row.difference is None or not math.isfinite(row.difference):
        return [el("td", "–", class_="vi-number"), el("td")]
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return [el("td", f"{row.difference:+.3f}", class_="vi-number"), el("td", "one picture", class_="vl-muted")]
    span = el("span", f"{row.low:+.2f} to {row.high:+.2f}", class_="vi-span")
    shown = interval(row.difference, row.low, row.high, reach)
    return [el("td", f"{row.difference:+.3f}", class_="vi-number"), el("td", shown, span, class_="vi-whiskers")]


def value(number: float | None) -> str:
    """A figure of a table, or a dash."""
    return "–" if number is None or not math.isfinite(number) else f"{number:.3f}"


# ---- the quadrants ---------------------------------------------------------------------------------------------------


def quadrants(counts: Mapping[str, int], names: Names, query: Query) -> Safe:
    """The first filter: who is right. With one side only: right and wrong."""
    total = sum(counts.values())
    if not total:
        return el("p", "No sample of this selection has a right answer to compare with.", class_="vl-empty")
    shown = dict(QUADRANTS) if names.both else {"both": "Right", "neither": "Wrong"}
    buttons = []
    for name, title in shown.items():
        count = counts.get(name, 0)
        share = count / total
        marks = [
            el("i", class_=f"vi-mark vi-{'right' if _is_right(name, side) else 'wrong'}", data_side=side)
            for side in names.sides
        ]
        buttons.append(
            el(
                "button",
                el("span", *marks, title, class_="vi-quadrant-name"),
                el("b", f"{count:,}"),
                el("span", f"{100 * share:.1f} %", class_="vl-muted"),
                el("span", el("i", style=f"width:{100 * share:.1f}%"), class_="vi-share"),
                type="button",
                class_="vi-quadrant",
                data_pick=f"quadrant:{name}",
                data_quadrant=name,
                aria_pressed="true" if query.quadrant == name else "false",
            )
        )
    return el("div", *buttons, class_="vi-quadrants", role="group", aria_label="Who is right")


def _is_right(quadrant: str, side: str) -> bool:
    return quadrant == "both" or quadrant == f"only_{side}"


# ---- the table -------------------------------------------------------------------------------------------------------


def chips_view(query: Query, count: int, total: int) -> Safe:
    """How many samples are left, and each filter as a button that drops it."""
    buttons = [
        el(
            "button",
            text[:80],
            el("span", "×", aria_hidden="true"),
            type="button",
            class_="vi-chip",
            data_pick=f"drop:{what}",
            aria_label=f"Drop the filter {text[:80]}",
        )
        for text, what in chips(query)
    ]
    if len(buttons) > 1:
        buttons.append(el("button", "Drop all", type="button", class_="vi-chip vi-all", data_pick="drop:all"))
    said = f"{count:,} of {total:,} samples" if query.narrowed else f"All {total:,} samples"
    return el("div", el("b", said, role="status"), *buttons, class_="vi-chips")


_COLUMNS = (
    ("order", "#", "in the order of the data set"),
    ("text", "question", "by its text"),
    ("left", "left", "by the left side's score"),
    ("right", "right", "by the right side's score"),
    ("difference", "l − r", "by the difference of the scores"),
    ("gap", "Δ log p", "by the gap between both sides' mean log-probability of a token"),
)


def table(lines: Sequence[Line], names: Names, query: Query, count: int, current: int | None) -> Safe:
    """One page of the selection. Rows are opened by a click, or by their button from the keyboard."""
    if not count:
        return el("p", "No sample fits these filters.", class_="vl-empty vi-none")
    columns = [c for c in _COLUMNS if names.both or c[0] not in ("right", "difference", "gap")]
    head_cells = [_sort_head(*column, query) for column in columns]
    body = [_row(line, names, current) for line in lines]
    shown = el(
        "table",
        el("thead", el("tr", *head_cells)),
        el("tbody", *body),
        class_="vl-table vi-rows",
    )
    return el("div", el("div", shown, class_="vl-scroll"), pager(query, count))


def _sort_head(name: str, title: str, how: str, query: Query) -> Safe:
    sorted_ = query.sort == name and (name != "order" or query.descending)
    arrow = ("▼" if query.descending else "▲") if sorted_ else ""
    side = name if name in ("left", "right") else None
    button = el(
        "button",
        title,
        el("span", arrow, aria_hidden="true"),
        type="button",
        class_="vi-sort",
        data_pick=f"sort:{name}",
        title=f"Sort {how}",
    )
    order = ("descending" if query.descending else "ascending") if sorted_ else None
    return el(
        "th",
        button,
        scope="col",
        aria_sort=order,
        data_side=side,
        class_=f"vi-col-{name} vi-wide" if name in ("difference", "gap") else f"vi-col-{name}",
    )


def _row(line: Line, names: Names, current: int | None) -> Safe:
    marks = [_mark(line.cells.get(side), side) for side in names.sides]
    question = el(
        "button",
        shorten(line.text, SHORT) or el("i", shorten(line.expected, SHORT) or "(no text)", title="What is expected"),
        type="button",
        class_="vi-open",
        data_pick=f"row:{line.row}",
        aria_current="true" if line.row == current else None,
    )
    noted = [el("span", tag, class_="vi-tag") for tag in line.noted[:3]]
    cells = [
        el("td", *marks, class_="vi-col-order"),
        el("td", question, el("small", line.task.replace("_", " "), " · ", line.id[:40]), *noted, class_="vi-col-text"),
    ]
    cells += [el("td", _said(line.cells.get(side)), class_="vi-said", data_side=side) for side in names.sides]
    if names.both:
        left, right = (line.cells.get(side) for side in names.sides)
        known = left and right and left.score is not None and right.score is not None
        cells.append(el("td", f"{left.score - right.score:+.2f}" if known else "–", class_="vi-number vi-wide"))  # type: ignore
        cells.append(el("td", "–" if line.gap is None else f"{line.gap:.2f}", class_="vi-number vi-wide"))
    return el("tr", *cells, data_pick=f"row:{line.row}", class_="vi-current" if line.row == current else None)


def _mark(cell: Cell | None, side: str) -> Safe:
    kind = "none" if cell is None or cell.right is None else "right" if cell.right else "wrong"
    said = {"none": "has no right answer", "right": "is right", "wrong": "is wrong"}[kind]
    return el(
        "i",
        class_=f"vi-mark vi-{kind}",
        data_side=side,
        title=f"{side} {said}",
        role="img",
        aria_label=f"{side} {said}",
    )


def _said(cell: Cell | None) -> Safe:
    """What the side said: how far its box overlaps, or its words."""
    if cell is None or cell.state == "missing":
        return el("span", "no answer", class_="vl-muted")
    if cell.state == "error":
        return el("span", "failed", class_="vi-bad")
    if cell.state == "unparseable":
        return el("span", "unparseable", class_="vi-bad", title=cell.said[:200])
    if cell.iou is not None:
        fill = el("span", class_="vl-iou-fill", style=f"width:{100 * max(0.0, min(1.0, cell.iou)):.0f}%")
        bar = el("span", fill, el("span", class_="vl-iou-line"), class_="vl-iou vi-iou")
        return el("span", bar, f"{cell.iou:.2f}", title=f"IoU {cell.iou:.3f}: {cell.said[:120]}")
    return el("span", shorten(cell.said, 48) or "(no text)", title=cell.said[:300])


def pager(query: Query, count: int) -> Safe:
    """Where this page is, and the way to others."""
    last = pages(count) - 1
    page = min(query.page, last)
    first_row = page * PAGE_ROWS + 1
    said = f"{first_row:,} to {min(count, first_row + PAGE_ROWS - 1):,} of {count:,}"
    steps = [
        _step("«", 0, "First page", page == 0),
        _step("‹", page - 1, "Page before", page == 0),
        el("span", said, class_="vi-where"),
        _step("›", page + 1, "Next page", page == last),
        _step("»", last, "Last page", page == last),
    ]
    return el("nav", *steps, class_="vi-pager", aria_label="Pages of the table")


def _step(sign: str, page: int, said: str, off: bool) -> Safe:
    return el(
        "button", sign, type="button", data_pick=f"page:{max(0, page)}", aria_label=said, disabled=off, class_="vi-step"
    )
