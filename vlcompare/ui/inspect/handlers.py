"""What happens on the inspect page: from what the visitor did to the regions that change.

A page is a dictionary from a region's or field's name to its new content; what is left out stays as it is. Knows the
visitor's inspection and the markup; knows nothing of gradio, so tests need no server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.render.charts import histogram, scatter
from vlcompare.render.markup import Safe, el
from vlcompare.ui.compare.cards import message
from vlcompare.ui.inspect import views as views
from vlcompare.ui.inspect.query import PAGE_ROWS, Query, clicked, filled
from vlcompare.ui.inspect.sample import as_run, picture_for, view
from vlcompare.ui.inspect.selection import MEASURES
from vlcompare.ui.inspect.session import Inspection, recorded_of
from vlcompare.ui.inspect.figures import of_slices, of_summary

Page = dict[str, Any]
CLOSED = "No run is open. Choose one from the list, or upload its archive."
NO_SAMPLE = "Choose a sample from the table: its picture, both answers and your notes are shown here."
REGIONS = ("message", "head", "figures", "quadrants", "chips", "charts", "slices", "table", "sample")


def guarded(inspection: Inspection, act: Callable[[], Page]) -> Page:
    """Do it alone, and say in one sentence where it cannot be done; nothing has changed then."""
    try:
        with inspection.whole():
            return {"message": message(""), **act()}
    except VLCompareError as error:
        return {"message": message(str(error), "error")}


def everything(inspection: Inspection) -> Page:
    """All regions of the page."""
    data = inspection.data
    if data is None:
        empty = {name: Safe("") for name in REGIONS}
        return {**empty, "message": message(""), "head": views.nothing(CLOSED), "sample": views.nothing(NO_SAMPLE)}
    return {
        "head": views.head(inspection.names, facts(inspection)),
        "figures": figures(inspection),
        **selection(inspection),
        **sample(inspection),
    }


def figures(inspection: Inspection) -> Safe:
    """Every task's figures over all samples; where no file has them, a button that computes them."""
    data = inspection.data
    assert data is not None
    if not data.summary_known:
        return views.to_be_computed()
    return views.figures_table(of_summary(data.summary, data.roles), inspection.names)


def selection(inspection: Inspection) -> Page:
    """What depends on the filters."""
    data, query = inspection.data, inspection.query
    if data is None:
        return {}
    counts = data.quadrant_counts(query, inspection.notes())
    return {
        "quadrants": views.quadrants(counts, inspection.names, query),
        "chips": views.chips_view(query, len(inspection.rows), data.table.count),
        "charts": charts(inspection),
        "slices": slices(inspection),
        "table": table(inspection),
    }


def table(inspection: Inspection) -> Safe:
    """One page of the selection."""
    data, query = inspection.data, inspection.query
    assert data is not None
    lines = data.page(inspection.rows, query, inspection.notes())
    return views.table(lines, inspection.names, query, len(inspection.rows), inspection.row)


def charts(inspection: Inspection) -> Safe:
    """The scatter of both sides and the histogram, of the measure that is looked at."""
    data, measure = inspection.data, MEASURES[inspection.measure]
    assert data is not None
    columns = [(role, data.measure(role, measure.name)[inspection.rows]) for role in data.roles]
    parts = [_figure(f"{measure.title[:1].upper()}{measure.title[1:]}, spread", histogram(columns, measure))]
    if len(columns) == 2:
        drawn = scatter(columns[0][1], columns[1][1], inspection.rows, measure, ("left", "right"))
        parts.insert(0, _figure(f"{measure.title[:1].upper()}{measure.title[1:]}, left against right", drawn))
    return el("div", *parts, class_="vi-charts")


def _figure(title: str, drawn: Safe) -> Safe:
    return el("figure", el("figcaption", title), drawn)


def slices(inspection: Inspection) -> Safe:
    """The figures of each slice of the selection."""
    data, name = inspection.data, inspection.dimension
    assert data is not None
    rows = of_slices(data.table, name, inspection.rows)
    title = data.table.aspects[name].title if name in data.table.aspects else name
    return views.slices_table(rows, inspection.names, name, title, inspection.query)


def sample(inspection: Inspection) -> Page:
    """The open sample, or the hint."""
    data, row = inspection.data, inspection.row
    if data is None or row is None:
        inspection.run = None
        return {"sample": views.nothing(NO_SAMPLE), "note": None}
    picture, missing = picture_for(data.run, row)
    notes = inspection.notes()
    inspection.run, inspection.pictured = as_run(data, row, picture), missing is None
    place, count = inspection.place(), len(inspection.rows)
    where = f"{place + 1:,} of {count:,} in this selection" if place is not None else "not in this selection"
    found, line = data.run.samples[row], data.line(row, notes)
    article = view(inspection.run, found, line, inspection.names, where, missing)
    return {"sample": article, "note": data.run.notes.get(found.id)}


# ---- actions ---------------------------------------------------------------------------------------------------------


def start(inspection: Inspection) -> Page:
    """The page was opened: show the given run, or the example that comes with the project."""

    def act() -> Page:
        first = inspection.catalogue.first()
        if first is not None and not inspection.open:
            inspection.choose([first.key])
        return {**everything(inspection), "controls": True}

    page = guarded(inspection, act)
    if "controls" not in page:  # the first run cannot be shown: the page is empty, and others can be chosen
        with inspection.lock:
            return {**everything(inspection), "controls": True, "message": page["message"]}
    return page


def choose(inspection: Inspection, keys: list[str] | None) -> Page:
    """Open the runs chosen in the list."""

    def act() -> Page:
        inspection.choose(keys or [])
        return {**everything(inspection), "controls": True, "form": inspection.query}

    return guarded(inspection, act)


def click(inspection: Inspection, pick: str) -> Page:
    """A click on a row, a quadrant, a slice, a bar, a heading, a page, or a chip."""

    def act() -> Page:
        if inspection.data is None:
            return {}
        kind, _, rest = pick.partition(":")
        if kind == "figures":
            return {
                "figures": views.figures_table(
                    of_summary(inspection.data.summary, inspection.data.roles), inspection.names
                )
            }
        if kind == "row":
            return open_row(inspection, int(rest)) if rest.isdecimal() and len(rest) < 12 else {}
        query = clicked(inspection.query, pick)
        if query == inspection.query:
            return {}
        inspection.change(query)
        if kind in ("page", "sort"):
            return {"table": table(inspection)}
        return {**selection(inspection), "form": query}

    return guarded(inspection, act)


def fill(inspection: Inspection, *values: Any) -> Page:
    """The filter form changed: text, regex, disagree, gap, noted, tag."""

    def act() -> Page:
        query = filled(inspection.query, *values)
        if query == inspection.query or inspection.data is None:
            return {}
        inspection.change(query)
        return selection(inspection)

    return guarded(inspection, act)


def set_sides(inspection: Inspection, left: str, right: str) -> Page:
    """Two other sides beside each other."""

    def act() -> Page:
        if (left, right) == (inspection.left, inspection.right):
            return {}
        inspection.set_sides(left, right or "")
        return {**everything(inspection), "controls": True, "form": inspection.query}

    return guarded(inspection, act)


def look(inspection: Inspection, *, dimension: str | None = None, measure: str | None = None) -> Page:
    """Slice by something else, or draw something else."""

    def act() -> Page:
        if inspection.data is None:
            return {}
        if dimension in inspection.data.table.aspects:
            inspection.dimension = dimension
            return {"slices": slices(inspection)}
        if measure in MEASURES:
            inspection.measure = measure
            return {"charts": charts(inspection)}
        return {}

    return guarded(inspection, act)


def step(inspection: Inspection, by: int) -> Page:
    """The next or the previous sample of the selection."""

    def act() -> Page:
        row = inspection.neighbour(by)
        return {} if row is None else open_row(inspection, row)

    return guarded(inspection, act)


def open_row(inspection: Inspection, row: int) -> Page:
    """Show a sample; the table goes to its page and marks it."""
    data = inspection.data
    if data is None or not 0 <= row < data.table.count:
        return {}
    inspection.row = row
    place = inspection.place()
    if place is not None and place // PAGE_ROWS != inspection.query.page:
        inspection.query = clicked(inspection.query, f"page:{place // PAGE_ROWS}")
    return {"table": table(inspection), **sample(inspection)}


def note(inspection: Inspection, sample_id: str, tags: list[str], text: str) -> Page:
    """Keep a note on the sample that its form belonged to, which need not be the open one any more."""

    def act() -> Page:
        data = inspection.data
        if data is None or not sample_id:
            return {}
        if sample_id not in data.run.index:
            raise RequestError("This sample is of no run that is open here.")
        known = data.run.notes.get(sample_id)
        wanted = {" ".join(tag.split()) for tag in tags} - {""}
        if set(known.tags) == wanted and known.text == text.strip():
            return {}
        kept = data.run.notes.put(sample_id, text, tags)
        said = "Kept." if kept.tags or kept.text else "The note is gone."
        return {"table": table(inspection), "note_state": f"{sample_id}: {said}"}

    return guarded(inspection, act)


def dimension_choices(inspection: Inspection) -> list[tuple[str, str]]:
    """(title, name) of what the open run can be sliced by."""
    if inspection.data is None:
        return []
    return [(aspect.title, name) for name, aspect in inspection.data.table.aspects.items()]


def facts(inspection: Inspection) -> dict[str, Any]:
    """What stands below the run's name."""
    data = inspection.data
    assert data is not None
    run, record = data.run, data.run.record
    pictures = int(data.table.clusters.max()) + 1 if data.table.count else 0
    origin = str(((record.get("identity") or {}).get("data") or {}).get("from") or "")
    sessions = record.get("sessions") or []
    ended = str(sessions[-1].get("ended", "")) if sessions and isinstance(sessions[-1], dict) else ""
    about = [f"{data.table.count:,} samples of {pictures:,} pictures", origin.rsplit("/", 1)[-1], ended]
    settings = {}
    for role, side in data.roles.items():
        known, _ = recorded_of(run, side)
        settings[role] = " · ".join(str(known[k]) for k in ("dtype", "device") if known.get(k))
    known = data.summary.get("warnings", ()) if data.summary_known else ()
    warnings = [*run.problems[:20], *(str(sentence) for sentence in known)]
    problem = None if run.complete else "This run is not complete: samples without an answer count as wrong."
    return {"about": " · ".join(a for a in about if a), "problem": problem, "settings": settings, "warnings": warnings}


def reset(query: Query) -> tuple[Any, ...]:
    """The filter form's values that show `query`."""
    return query.text, query.regex, query.disagree, query.gap, query.noted, query.tag
