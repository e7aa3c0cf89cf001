"""The inspect page's run, quadrants, filters and table as markup; `markup.el` escapes all text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlcompare.render.markup import Safe, el, shorten
from vlcompare.types import SIDES
from vlcompare.ui.inspect.query import PAGE_ROWS, QUADRANT_TITLES, Query, chips, pages
from vlcompare.ui.inspect.selection import Cell, Names, Opened, SampleRow
from vlcompare.ui.inspect.session import recorded_of

SHORT = 90  # characters of a text in a table row


def nothing(sentence: str) -> Safe:
    """A sentence in place of a region that has nothing to show."""
    return el("div", el("p", sentence, class_="vl-empty"), class_="vi-nothing")


def figures_button() -> Safe:
    """In place of figures that no file holds: a button that computes them."""
    button = el("button", "Compute them", type="button", data_pick="figures:", class_="vi-chip")
    return el("p", "These two sides have no summary yet. ", button, class_="vl-empty")


# ---- the run ---------------------------------------------------------------------------------------------------------


def head(opened: Opened, names: Names) -> Safe:
    """The run's name, its sides, what it was made from, and what to beware of."""
    run, record, count = opened.run, opened.run.record, opened.table.count
    sides = []
    for role, side in opened.roles.items():
        recorded, _ = recorded_of(run, side)
        settings = " · ".join(str(recorded[name]) for name in ("dtype", "device") if recorded.get(name))
        key, title = el("i", class_="vl-key", data_side=role), el("b", names.sides[role])
        sides.append(el("span", key, title, el("span", settings, class_="vl-muted"), class_="vi-side-name"))
    pictures = int(opened.table.clusters.max()) + 1 if count else 0
    origin = str(((record.get("identity") or {}).get("data") or {}).get("from") or "")
    sessions = record.get("sessions") or []
    ended = str(sessions[-1].get("ended", "")) if sessions and isinstance(sessions[-1], dict) else ""
    about = [f"{count:,} samples of {pictures:,} pictures", origin.rsplit("/", 1)[-1], ended]
    incomplete = "This run is not complete: samples without an answer count as wrong."
    return el(
        "div",
        el("h2", names.run, class_="vi-run"),
        el("div", *sides, class_="vi-sides"),
        el("p", " · ".join(fact for fact in about if fact), class_="vl-note"),
        None if run.complete else el("p", incomplete, class_="vl-warn"),
        _warnings(opened),
    )


def _warnings(opened: Opened) -> Safe | None:
    """What was wrong with the run's files, and the warnings of its summary where that is known."""
    warnings = [*opened.run.problems[:20], *(opened.summary.get("warnings", ()) if opened.summary_known else ())]
    if not warnings:
        return None
    title = f"{len(warnings)} {'thing' if len(warnings) == 1 else 'things'} to know about these figures"
    return el(
        "details", el("summary", title), el("ul", *[el("li", str(each)) for each in warnings]), class_="vi-warnings"
    )


# ---- the quadrants ---------------------------------------------------------------------------------------------------


def quadrants(counts: Mapping[str, int], names: Names, query: Query) -> Safe:
    """The first filter: who is right. With one side only: right and wrong."""
    total = sum(counts.values())
    if not total:
        return el("p", "No sample of this selection has a right answer to compare with.", class_="vl-empty")
    shown = dict(QUADRANT_TITLES) if names.both else {"both": "Right", "neither": "Wrong"}
    buttons = []
    for name, title in shown.items():
        share = counts.get(name, 0) / total
        marks = [
            el("i", class_=f"vi-mark vi-{'right' if name in ('both', f'only_{side}') else 'wrong'}", data_side=side)
            for side in names.sides
        ]
        buttons.append(
            el(
                "button",
                el("span", *marks, title, class_="vi-quadrant-name"),
                el("b", f"{counts.get(name, 0):,}"),
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
    shown = f"{count:,} of {total:,} samples" if query.narrowed else f"All {total:,} samples"
    return el("div", el("b", shown, role="status"), *buttons, class_="vi-chips")


_COLUMNS = (
    ("order", "#", "in the order of the data set"),
    ("text", "question", "by its text"),
    ("left", "left", "by the left side's score"),
    ("right", "right", "by the right side's score"),
    ("difference", "l − r", "by the difference of the scores"),
    ("gap", "Δ log p", "by the gap between both sides' mean log-probability of a token"),
)


def table(rows: Sequence[SampleRow], names: Names, query: Query, count: int, current: int | None) -> Safe:
    """One page of the selection. Rows are opened by a click, or by their button from the keyboard."""
    if not count:
        return el("p", "No sample fits these filters.", class_="vl-empty vi-none")
    columns = [c for c in _COLUMNS if names.both or c[0] not in ("right", "difference", "gap")]
    head_cells = [_sort_head(*column, query) for column in columns]
    body = [_row(row, names, current) for row in rows]
    shown = el("table", el("thead", el("tr", *head_cells)), el("tbody", *body), class_="vl-table vi-rows")
    return el("div", el("div", shown, class_="vl-scroll"), _pager(query, count))


def _sort_head(name: str, title: str, how: str, query: Query) -> Safe:
    order: str | None
    arrow, order = ("▼", "descending") if query.descending else ("▲", "ascending")
    if query.sort != name or (name == "order" and not query.descending):
        arrow, order = "", None
    button = el(
        "button",
        title,
        el("span", arrow, aria_hidden="true"),
        type="button",
        class_="vi-sort",
        data_pick=f"sort:{name}",
        title=f"Sort {how}",
    )
    return el(
        "th",
        button,
        scope="col",
        aria_sort=order,
        data_side=name if name in SIDES else None,
        class_=f"vi-col-{name} vi-wide" if name in ("difference", "gap") else f"vi-col-{name}",
    )


def _row(row: SampleRow, names: Names, current: int | None) -> Safe:
    marks = [_mark(row.cells.get(side), side) for side in names.sides]
    question = el(
        "button",
        shorten(row.text, SHORT) or el("i", shorten(row.expected, SHORT) or "(no text)", title="What is expected"),
        type="button",
        class_="vi-open",
        data_pick=f"row:{row.row}",
        aria_current="true" if row.row == current else None,
    )
    noted = [el("span", tag, class_="vi-tag") for tag in row.noted[:3]]
    cells = [
        el("td", *marks, class_="vi-col-order"),
        el("td", question, el("small", row.task.replace("_", " "), " · ", row.id[:40]), *noted, class_="vi-col-text"),
    ]
    cells += [el("td", _answer(row.cells.get(side)), class_="vi-said", data_side=side) for side in names.sides]
    if names.both:
        left, right = (row.cells.get(side) for side in names.sides)
        known = left and right and left.score is not None and right.score is not None
        cells.append(el("td", f"{left.score - right.score:+.2f}" if known else "–", class_="vi-number vi-wide"))  # type: ignore
        cells.append(el("td", "–" if row.gap is None else f"{row.gap:.2f}", class_="vi-number vi-wide"))
    return el("tr", *cells, data_pick=f"row:{row.row}", class_="vi-current" if row.row == current else None)


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
        return el("span", bar, f"{cell.iou:.2f}", title=f"IoU {cell.iou:.3f}: {cell.text[:120]}")
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
