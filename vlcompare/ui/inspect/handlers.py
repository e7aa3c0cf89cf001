"""The inspect tab's actions: each takes the user's inspection and returns the regions and fields that change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from vlcompare.errors import RequestError
from vlcompare.render.charts import histogram, scatter
from vlcompare.render.markup import Safe, el
from vlcompare.types import SIDES
from vlcompare.ui.inspect import figures, listing, sample, views
from vlcompare.ui.inspect.action import InspectUpdate, action, shows_lists
from vlcompare.ui.inspect.headline import headline
from vlcompare.ui.inspect.query import PAGE_ROWS, Query, clicked, filled
from vlcompare.ui.inspect.selection import MEASURES, Opened
from vlcompare.ui.inspect.session import MAX_OPEN, Inspection

CLOSED = "No run is open. Choose one from the list, or upload its archive."
NO_SAMPLE = "Choose a sample from the list: its picture, both answers and your notes are shown here."
KEYS = "Keys: ← → or K J previous and next · 1 to 9 error types · N note · / search"
SELECTED = (  # the regions that depend on the filters
    "headline",
    "quadrants",
    "differences",
    "slices",
    "charts",
    "chips",
    "table",
)
MAX_THUMBNAILS = 12  # of one request

# ---- regions ---------------------------------------------------------------------------------------------------------


def everything(inspection: Inspection) -> InspectUpdate:
    """All regions of the page."""
    data = inspection.data
    if data is None:
        empty = cast(InspectUpdate, dict.fromkeys(("message", "offer", "figures", "picture", *SELECTED), Safe("")))
        return {**empty, "head": views.nothing(CLOSED), "sample": views.nothing(NO_SAMPLE, KEYS)}
    inspection.open_first()
    return {
        "offer": _offer(inspection),
        "head": views.head(data, inspection.names),
        "figures": _figures(inspection, data) if data.summary_known else views.figures_button(),
        **_selection(inspection, data),
        **_sample(inspection, data),
    }


def _figures(inspection: Inspection, data: Opened) -> Safe:
    """Every task's figures over all samples."""
    table = figures.figures_table(figures.of_summary(data.summary, data.roles), inspection.names)
    return el("div", el("p", "Over all samples, whatever is chosen above.", class_="vl-note"), table)


def _offer(inspection: Inspection) -> Safe:
    """The run that was just added, with the sides that it can be put on."""
    key = inspection.offer
    sides = [(value, title) for value, title in inspection.side_choices() if value.startswith(f"{key}\n")]
    return views.offer(key, [(value, title.removeprefix(f"{key}: ")) for value, title in sides])


def _selection(inspection: Inspection, data: Opened) -> InspectUpdate:
    query, names, selection = inspection.query, inspection.names, inspection.selection
    ranked, tested = inspection.differences()
    return {
        "headline": headline(data, names, selection, tested),
        "quadrants": views.quadrants(data.quadrant_counts(selection), names, query),
        "differences": figures.differences(ranked, len(tested), names, query),
        "slices": _slices(inspection, data),
        "charts": _charts(inspection, data),
        "measure": inspection.measure,
        "chips": views.chips_view(query, len(inspection.rows), data.table.count, data.slice_title),
        "table": _table(inspection, data),
    }


def _table(inspection: Inspection, data: Opened) -> Safe:
    """One page of the selection."""
    query, count = inspection.query, len(inspection.rows)
    rows = data.page(inspection.rows, query, inspection.notes())
    return listing.samples_view(rows, inspection.names, query, count, inspection.row, gallery=inspection.gallery)


def _charts(inspection: Inspection, data: Opened) -> Safe:
    """The scatter of both sides and the histogram, of the chosen measure."""
    measure = MEASURES[inspection.measure]
    columns = [(role, data.measure(role, measure.name)[inspection.rows]) for role in data.roles]
    drawn = [("spread", histogram(columns, measure))]
    if len(columns) == 2:
        both = scatter(columns[0][1], columns[1][1], inspection.rows.tolist(), measure, SIDES)
        drawn.insert(0, ("left against right", both))
    title = measure.title[:1].upper() + measure.title[1:]
    parts = [el("figure", el("figcaption", f"{title}, {what}"), chart) for what, chart in drawn]
    return el("div", *parts, class_="vi-charts")


def _slices(inspection: Inspection, data: Opened) -> Safe:
    """The figures of each slice of the selection."""
    return figures.slices(data, inspection.names, inspection.dimension, inspection.selection)


def _sample(inspection: Inspection, data: Opened) -> InspectUpdate:
    """The open sample with its note, or a hint where none is open."""
    row = inspection.row
    if row is None:
        inspection.run = None
        return {"picture": Safe(""), "sample": views.nothing(NO_SAMPLE, KEYS), "note": None}
    picture, missing = sample.picture_for(data.run, row)
    inspection.run, inspection.pictured = sample.as_run(data, row, picture), missing is None
    opened, values = data.run.samples[row], data.row(row, inspection.notes())
    inspection.run.evidence, refused = sample.evidence_of(data, row)
    return {
        "picture": sample.picture_view(inspection.run, inspection.place(), missing),
        "sample": sample.view(inspection.run, opened, values, inspection.names, refused),
        "note": data.run.notes.get(opened.id),
    }


def _changed(inspection: Inspection, data: Opened, query: Query) -> InspectUpdate:
    """Take a new query: the open sample in its new place, or the first one of the selection if nobody chose that."""
    inspection.change(query)
    if inspection.open_first():
        return _sample(inspection, data)
    if inspection.row is None or inspection.run is None:
        return {}
    missing = None if inspection.pictured else sample.picture_for(data.run, inspection.row)[1]
    return {"picture": sample.picture_view(inspection.run, inspection.place(), missing)}


# ---- actions ---------------------------------------------------------------------------------------------------------


def start(inspection: Inspection, *, beside: bool = False) -> InspectUpdate:
    """The page was opened: show the given run, or the example that comes with the project.

    beside: whether there is room for a sample beside the list; the first one of a run is then open.
    """
    inspection.beside = beside
    page = _first(inspection)
    if "controls" not in page:  # the first run cannot be shown: the page is empty, and others can be chosen
        with inspection.lock:
            return {**everything(inspection), "controls": True, "message": page["message"]}
    return page


@action
def _first(inspection: Inspection) -> InspectUpdate:
    first = inspection.library.first()
    if first is not None and not inspection.open:
        inspection.choose([first])
    return {**everything(inspection), "controls": True}


@shows_lists
@action
def choose(inspection: Inspection, keys: list[str] | None) -> InspectUpdate:
    """Open the runs chosen in the list, and close the others."""
    inspection.choose(keys or [])
    return {**everything(inspection), "controls": True, "form": inspection.query}


@action
def click(inspection: Inspection, pick: str) -> InspectUpdate:
    """A click on a row, a quadrant, a slice, a bar, a heading, a page, or a chip, as its `data-pick` says."""
    data = inspection.data
    if data is None:
        return {}
    kind, _, rest = pick.partition(":")
    if kind == "figures":
        return {"figures": _figures(inspection, data)}
    if kind == "put":
        return _put(inspection, rest)
    if kind == "view":
        inspection.gallery = rest == "gallery"
        return {"table": _table(inspection, data)}
    if kind == "row":
        return _open_row(inspection, data, int(rest)) if rest.isdecimal() and len(rest) < 12 else {}
    query = clicked(inspection.query, pick)
    if query == inspection.query:
        return {}
    if kind == "page":
        inspection.turn(query)
        return {"table": _table(inspection, data)}
    placed = _changed(inspection, data, query)
    if kind == "sort":
        return {"table": _table(inspection, data), **placed}
    return {**_selection(inspection, data), **placed, "form": query}


def _put(inspection: Inspection, rest: str) -> InspectUpdate:
    """Put the run that was added on a side, show it alone, or leave it where it is."""
    role, _, value = rest.partition(":")
    if role == "show" and value in inspection.open:
        inspection.show(value)
    elif role in SIDES:
        others = {"left": inspection.left, "right": inspection.right, role: value}
        inspection.set_sides(others["left"], others["right"])
    else:
        inspection.offer = ""
        return {"offer": Safe("")}
    return {**everything(inspection), "controls": True, "form": inspection.query}


@action
def fill(inspection: Inspection, *values: Any) -> InspectUpdate:
    """The filter form changed: text, regex, disagree, gap, noted, tag."""
    query = filled(inspection.query, *values)
    if query == inspection.query or inspection.data is None:
        return {}
    placed = _changed(inspection, inspection.data, query)
    return {**_selection(inspection, inspection.data), **placed}


@shows_lists
@action
def set_sides(inspection: Inspection, left: str, right: str | None) -> InspectUpdate:
    """Compare two other sides, or show one alone."""
    if (left, right) == (inspection.left, inspection.right):
        return {}
    inspection.set_sides(left, right or "")
    return {**everything(inspection), "controls": True, "form": inspection.query}


@action
def show_task(inspection: Inspection, folder: Path, task: str, *, swapped: bool) -> InspectUpdate:
    """Show a task's samples of the run in `folder`, its sides exchanged where they are `swapped`."""
    key = next((name for name, path in inspection.library.listed().items() if path == folder.resolve()), None)
    if key is None:
        raise RequestError("This run is not among those that can be opened here.")
    if key not in inspection.open:
        inspection.choose([*inspection.open, key][-MAX_OPEN:])
    inspection.show(key)
    if swapped:
        inspection.set_sides(inspection.right, inspection.left)
    inspection.change(Query(slices=(("task", task),)))
    inspection.slice_by_largest()
    return {**everything(inspection), "controls": True, "form": inspection.query}


@action
def slice_by(inspection: Inspection, dimension: str) -> InspectUpdate:
    """Slice the selection by another aspect of the samples."""
    if inspection.data is None or dimension not in inspection.data.dimensions:
        return {}
    inspection.dimension = dimension
    return {"slices": _slices(inspection, inspection.data)}


@action
def draw(inspection: Inspection, measure: str) -> InspectUpdate:
    """Draw the charts of another measure."""
    if inspection.data is None or measure not in MEASURES:
        return {}
    inspection.choose_measure(measure)
    return {"charts": _charts(inspection, inspection.data)}


@action
def step(inspection: Inspection, by: int) -> InspectUpdate:
    """Open the next sample of the selection, or the one before."""
    row = inspection.neighbour(by)
    return {} if row is None or inspection.data is None else _open_row(inspection, inspection.data, row)


@action
def return_to(inspection: Inspection, run: str, sample_id: str) -> InspectUpdate:
    """Open the sample again that was shown elsewhere; nothing changes where another run is open by now."""
    data = inspection.data
    if data is None or inspection.names.run != run or sample_id not in data.run.index:
        return {}
    return _open_row(inspection, data, data.run.index[sample_id])


def _open_row(inspection: Inspection, data: Opened, row: int) -> InspectUpdate:
    """Show a sample; the table goes to its page and marks it."""
    if not 0 <= row < data.table.count:
        return {}
    inspection.row, inspection.unasked = row, None
    position = inspection.position()
    if position is not None:
        inspection.turn(clicked(inspection.query, f"page:{position // PAGE_ROWS}"))
    return {"table": _table(inspection, data), **_sample(inspection, data)}


@action
def note(inspection: Inspection, form_of: str, tags: list[str], text: str, edit: float) -> InspectUpdate:
    """Keep a note on the sample that its form was of, which need not be the open one any more, nor of the open run.

    form_of: as of `Inspection.form_of`.
    edit: its number, as the page counts them; an edit that arrives after a later one changes nothing.
    """
    if not form_of:
        return {}
    key, _, sample_id = form_of.partition(":")
    run = inspection.noted.get(key)
    if run is None or sample_id not in run.index:
        raise RequestError("This note is not kept: its run is open here no longer. Copy it, and load the page again.")
    if edit <= inspection.edits.get(form_of, 0):
        return {}
    inspection.edits[form_of] = edit
    known = run.notes.get(sample_id)
    wanted = {" ".join(tag.split()) for tag in tags} - {""}
    if set(known.tags) == wanted and known.text == text.strip():
        return {}
    kept = run.notes.put(sample_id, text, tags)
    state = f"{sample_id}: {'Kept.' if kept.tags or kept.text else 'The note is gone.'}"
    update: InspectUpdate = {"note_state": el("p", state, class_="vl-note", role="status")}
    if inspection.data is not None and inspection.data.run is run:
        inspection.unasked = None  # what is written about stays open
        update["table"] = _table(inspection, inspection.data)
    return update


def thumbnails(inspection: Inspection, asked: Sequence[object]) -> dict[str, str]:
    """What the page asked for -> the small picture as a data URI, "" where it cannot be shown.

    Only pictures of the run that is open here are given. No action: pictures are decoded while others go on.
    """
    data = inspection.data
    if data is None:
        return {}
    found = {}
    for name in list(asked)[:MAX_THUMBNAILS]:
        key, _, number = str(name)[:40].partition("-")
        if key == str(data.key) and number.isdecimal() and int(number) < len(data.pictures):
            found[str(name)] = inspection.library.thumbnails.get(data, int(number))
    return found
