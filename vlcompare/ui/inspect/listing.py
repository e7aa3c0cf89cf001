"""The list of samples on the inspect page, as a table or as pictures, one page of it at a time."""

from __future__ import annotations

from collections.abc import Sequence

from vlcompare.render.markup import Safe, el, shorten
from vlcompare.render.terms import term
from vlcompare.tasks.prompts import task_title
from vlcompare.types import Box
from vlcompare.ui.compare.picture import box_mark
from vlcompare.ui.inspect.query import PAGE_ROWS, Query, pages
from vlcompare.ui.inspect.selection import Cell, Names, SampleRow
from vlcompare.units import decimal

SHORT = 90  # characters of a text in a row
_COLUMNS = (
    ("order", "#", "in the order of the data set"),
    ("text", "question", "by its text"),
    ("left", "left", "by the left side's score"),
    ("right", "right", "by the right side's score"),
    ("difference", "l − r", "by the difference of the scores"),
    ("gap", "Δ log p", "by the gap between both sides' mean log-probability of a token"),
)


def samples_view(
    rows: Sequence[SampleRow], names: Names, query: Query, count: int, current: int | None, *, gallery: bool
) -> Safe:
    """One page of the selection, as a table or as pictures. A sample is opened by a click on it, or by its button."""
    kinds = el("span", _kind("table", "Table", not gallery), _kind("gallery", "Pictures", gallery), class_="vi-kinds")
    if not count:
        return el("div", kinds, el("p", "No sample fits these filters.", class_="vl-empty vi-none"))
    if gallery:
        return el("div", kinds, _orders(names, query), _gallery(rows, names, current), _pager(query, count))
    return el("div", kinds, _table(rows, names, query, current), _pager(query, count))


def _kind(name: str, title: str, pressed: bool) -> Safe:
    state = "true" if pressed else "false"
    return el("button", title, type="button", data_pick=f"view:{name}", aria_pressed=state, class_="vi-kind")


def _columns(names: Names) -> list[tuple[str, str, str]]:
    return [column for column in _COLUMNS if names.both or column[0] not in ("right", "difference", "gap")]


def _table(rows: Sequence[SampleRow], names: Names, query: Query, current: int | None) -> Safe:
    head_cells = [_sort_head(*column, query) for column in _columns(names)]
    head_cells.insert(1, el("th", "picture", scope="col", class_="vi-col-picture"))
    body = [_row(row, names, current) for row in rows]
    shown = el("table", el("thead", el("tr", *head_cells)), el("tbody", *body), class_="vl-table vi-rows")
    return el("div", shown, class_="vl-scroll")


def _orders(names: Names, query: Query) -> Safe:
    """The orders that a table has in its heads."""
    buttons = [_sort_button(*column, query) for column in _columns(names)]
    return el("span", el("span", "Order by", class_="vl-muted"), *buttons, class_="vi-orders")


def _gallery(rows: Sequence[SampleRow], names: Names, current: int | None) -> Safe:
    """Pictures with both sides' boxes and the truth, each with its question and what the sides answered."""
    return el("div", *[_card(row, names, current) for row in rows], class_="vi-gallery vi-rows")


def _card(row: SampleRow, names: Names, current: int | None) -> Safe:
    answers = []
    for side in names.sides:
        cell = row.cells.get(side)
        answers.append(el("span", _mark(cell, side), _answer(cell), class_="vi-said", data_side=side))
    noted = [el("span", tag, class_="vi-tag") for tag in row.noted[:3]]
    return el(
        "div",
        _thumbnail(row),
        _open_button(row, current),
        el("small", task_title(row.task)),
        *answers,
        *noted,
        data_pick=f"row:{row.row}",
        class_="vi-card vi-current" if row.row == current else "vi-card",
    )


def _thumbnail(row: SampleRow) -> Safe:
    """The place of the row's small picture, which the page asks for once it is in view, under the row's boxes."""
    if not row.picture:
        return el("span", el("span", "no picture", class_="vl-muted"), class_="vi-thumb")
    marks = [
        box_mark(Box(*box), "", "vl-truth" if role == "truth" else "vl-side-box", data_side=role)
        for role, box in row.boxes
    ]
    picture = el("img", alt="", data_thumb=row.picture, draggable="false")
    return el("span", el("span", picture, *marks, class_="vl-stage"), class_="vi-thumb", aria_hidden="true")


def _sort_button(name: str, title: str, how: str, query: Query) -> Safe:
    sorted_by = query.sort == name and (name != "order" or query.descending)
    arrow = ("▼" if query.descending else "▲") if sorted_by else ""
    return el(
        "button",
        title,
        el("span", arrow, aria_hidden="true"),
        type="button",
        class_="vi-sort",
        data_pick=f"sort:{name}",
        title=f"Sort {how}",
    )


def _sort_head(name: str, title: str, how: str, query: Query) -> Safe:
    sorted_by = query.sort == name and (name != "order" or query.descending)
    return el(
        "th",
        _sort_button(name, title, how, query),
        el("span", term("confidence gap", "?"), class_="vi-what") if name == "gap" else None,
        scope="col",
        aria_sort=("descending" if query.descending else "ascending") if sorted_by else None,
        data_side=name if name in ("left", "right") else None,
        class_=f"vi-col-{name} vi-wide" if name in ("difference", "gap") else f"vi-col-{name}",
    )


def _row(row: SampleRow, names: Names, current: int | None) -> Safe:
    noted = [el("span", tag, class_="vi-tag") for tag in row.noted[:3]]
    cells = [
        el("td", f"{row.row + 1:,}", class_="vi-col-order"),
        el("td", _thumbnail(row), class_="vi-col-picture"),
        el(
            "td",
            _open_button(row, current),
            el("small", task_title(row.task), el("span", " · ", row.id[:40], class_="vi-id")),
            *noted,
            class_="vi-col-text",
        ),
    ]
    for side in names.sides:
        cell = row.cells.get(side)
        cells.append(el("td", _mark(cell, side), _answer(cell), class_="vi-said", data_side=side))
    if names.both:
        left, right = (row.cells.get(side) for side in names.sides)
        scores = [cell.score for cell in (left, right) if cell and cell.score is not None]
        difference = scores[0] - scores[1] if len(scores) == 2 else None
        cells.append(el("td", decimal(difference, signed=True), class_="vi-number vi-wide"))
        cells.append(el("td", decimal(row.gap), class_="vi-number vi-wide"))
    return el("tr", *cells, data_pick=f"row:{row.row}", class_="vi-current" if row.row == current else None)


def _open_button(row: SampleRow, current: int | None) -> Safe:
    return el(
        "button",
        shorten(row.text, SHORT) or el("i", shorten(row.expected, SHORT) or "(no text)", title="What is expected"),
        type="button",
        class_="vi-open",
        data_pick=f"row:{row.row}",
        aria_current="true" if row.row == current else None,
    )


def _mark(cell: Cell | None, side: str) -> Safe:
    verdict = "none" if cell is None or cell.right is None else "right" if cell.right else "wrong"
    label = f"{side} {'has no right answer' if verdict == 'none' else f'is {verdict}'}"
    return el("i", class_=f"vi-mark vi-{verdict}", data_side=side, title=label, role="img", aria_label=label)


def _answer(cell: Cell | None) -> Safe:
    """A side's answer: how far its box overlaps the true one, or its words."""
    if cell is None or cell.state == "missing":
        return el("span", "no answer", class_="vl-muted")
    if cell.state == "error":
        return el("span", "failed", class_="vi-bad")
    if cell.state == "unparseable":
        return el("span", "unparseable", class_="vi-bad", title=cell.text[:200])
    if cell.iou is not None:
        fill = el("span", class_="vl-iou-fill", style=f"width:{100 * max(0.0, min(1.0, cell.iou)):.0f}%")
        bar = el("span", fill, el("span", class_="vl-iou-line"), class_="vl-iou vi-iou")
        return el("span", bar, decimal(cell.iou), title=f"IoU {decimal(cell.iou)}: {cell.text[:120]}")
    return el("span", shorten(cell.text, 48) or "(no text)", title=cell.text[:300])


def _pager(query: Query, count: int) -> Safe:
    """Where this page is, and the way to others."""
    last = pages(count) - 1
    page = min(query.page, last)
    first_row = page * PAGE_ROWS + 1
    shown = f"{first_row:,} to {min(count, first_row + PAGE_ROWS - 1):,} of {count:,}"
    steps = [
        _step("«", 0, "First page", page == 0),
        _step("‹", page - 1, "Page before", page == 0),
        el("span", shown, class_="vi-where"),
        _step("›", page + 1, "Next page", page == last),
        _step("»", last, "Last page", page == last),
    ]
    return el("nav", *steps, class_="vi-pager", aria_label="Pages of the table")


def _step(sign: str, page: int, label: str, disabled: bool) -> Safe:
    pick = f"page:{max(0, page)}"
    return el("button", sign, type="button", data_pick=pick, aria_label=label, disabled=disabled, class_="vi-step")
