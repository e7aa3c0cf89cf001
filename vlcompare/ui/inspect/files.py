"""Files of the inspect page: a run that is uploaded, exports, and the open sample as the compare tab's fields."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from vlcompare.errors import RequestError, SampleError
from vlcompare.evaluate.results import archive, export, html_report
from vlcompare.evaluate.results.table import Rows
from vlcompare.types import SIDES
from vlcompare.ui.compare.files import picture_file, write_file
from vlcompare.ui.compare.forms import SIDE_FIELDS, ask_form_of, shown_side
from vlcompare.ui.compare.session import Run
from vlcompare.ui.compare.stored import stored_of
from vlcompare.ui.inspect.handlers import InspectUpdate, action, everything
from vlcompare.ui.inspect.headline import filters_of
from vlcompare.ui.inspect.library import unused_name
from vlcompare.ui.inspect.query import chips
from vlcompare.ui.inspect.session import Inspection
from vlcompare.ui.server.rate_limit import free_space
from vlcompare.ui.server.uploads import largest_upload, open_file
from vlcompare.ui.settings import AppSettings, Limits

REPORT_SAMPLES = 24
MAX_ARCHIVES = 4  # archives of one user that stay unpacked
MAX_UNPACKED = 8 * 2**30  # bytes of all users' archives on the disk
AT_ONCE = 4  # archives that are unpacked at the same time, at most
NO_ROOM = "The server has no room to unpack this archive at the moment: try later, or leave its pictures out."
_unpacked: WeakKeyDictionary[tempfile.TemporaryDirectory[str], int] = WeakKeyDictionary()
_lock = threading.Lock()


@action
def upload(inspection: Inspection, path: str | None, limits: Limits | None = None) -> InspectUpdate:
    """Open an uploaded run archive, for this user alone. path: as the client sent it."""
    if not path:
        return {}
    if len(inspection.unpacked) >= MAX_ARCHIVES:
        raise SampleError(f"At most {MAX_ARCHIVES} archives can be open in one visit: load the page again.")
    folder = tempfile.TemporaryDirectory(prefix="vlcompare-run-", ignore_cleanup_errors=True)
    try:
        with open_file(path, largest_upload(limits or Limits()), "archive") as file:
            run = archive.open_archive(file, Path(folder.name) / "run", reserve=partial(_reserve, folder))
        inspection.add(unused_name(f"{Path(path).stem[:60]} (uploaded)", inspection.open), run)
        page: InspectUpdate = {**everything(inspection), "controls": True, "form": inspection.query}
    except BaseException:
        folder.cleanup()
        raise
    inspection.unpacked.append(folder)
    return page


def _reserve(folder: tempfile.TemporaryDirectory[str], size: int) -> None:
    """Count `size` bytes for as long as the folder is kept. Raises SampleError where the disk must not take them.

    The same upload can be unpacked in any number of visits, so quotas of uploads do not bound this. The disk has room
    for `AT_ONCE` of this size, since others may be about to write as much.
    """
    with _lock:
        if sum(_unpacked.values()) + size > MAX_UNPACKED or free_space(Path(folder.name)) < AT_ONCE * size:
            raise SampleError(NO_ROOM)
        _unpacked[folder] = size


def export_text(inspection: Inspection, kind: str, *, only: bool) -> tuple[str, str]:
    """(name, content) of an export of the selection, or of all samples."""
    if inspection.data is None:
        raise RequestError("No run is open to be exported.")
    table = inspection.data.table
    rows = inspection.rows if only else None
    if rows is not None and not len(rows):
        raise RequestError("No sample fits the filters, so there is nothing to export.")
    figures = inspection.selection.base if only else None  # not of a quadrant, where they are so by construction
    chosen = chips(inspection.query, inspection.data.slice_title) if only else []
    narrowed = filters_of(inspection.data, inspection.query) if only else []
    filters = ", ".join(text for text, _ in narrowed)
    outcome = ", ".join(text for text, drops in chosen if (text, drops) not in narrowed)
    names = tuple(inspection.names.sides.values())
    makers: dict[str, tuple[str, Callable[[], str]]] = {
        "csv": (".csv", lambda: export.to_csv(table, rows)),
        "json": (".json", lambda: export.to_json(table, rows, figures=figures)),
        "comparator": ("-llm-comparator.json", lambda: export.to_llm_comparator(table, rows, names=names)),
        "report": (
            ".html",
            lambda: html_report.html_report(
                table,
                _shown(inspection, rows),
                rows=figures,
                filters=filters,
                outcome=outcome,
                names=names,
                most=REPORT_SAMPLES,
            ),
        ),
    }
    if kind not in makers:
        raise RequestError(f"There is no export {kind!r}.")
    ending, make = makers[kind]
    return f"vlcompare-{table.run.name}{ending}", make()


def _shown(inspection: Inspection, rows: Rows | None) -> Rows:
    """The samples in the order in which the report shows them: those with a note first, then the selection's; of all
    samples, and of a selection that no filter and no order made, first those that only one side has right."""
    assert inspection.data is not None
    run, table = inspection.data.run, inspection.data.table
    chosen = np.arange(table.count) if rows is None else rows
    noted = set(inspection.notes())
    first = np.array([run.samples[i].id in noted for i in chosen], dtype=bool)
    others = chosen[~first]
    if rows is None or (not inspection.query.narrowed and inspection.query.sort == "order"):
        others = others[np.argsort(~np.isin(table.quadrant[others], (1, 2)), kind="stable")]
    return np.concatenate([chosen[first], others])


def export_file(inspection: Inspection, kind: str, *, only: bool) -> str:
    """The export as a file to download. The archive always holds the whole run."""
    with inspection.lock:
        if kind == "archive":
            if inspection.data is None:
                raise RequestError("No run is open to be exported.")
            run = inspection.data.run
            size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
            return str(archive.write_archive(run, Path(write_file(f"{run.name or 'run'}.zip", b"", size))))
        name, content = export_text(inspection, kind, only=only)
        return write_file(name, content.encode())


def stored_run(inspection: Inspection) -> Run | None:
    """The open sample with both sides' stored answers, as a run for the compare tab; None where one of these, or the
    picture, is not there."""
    run = inspection.run
    if run is None or inspection.row is None or inspection.data is None or not inspection.pictured:
        return None
    if set(run.sides) != set(SIDES) or not run.done:
        return None
    sides = {}
    for side, part in run.sides.items():
        assert part.answer is not None
        sides[side] = replace(part, answer=replace(part.answer, stop_reason="recorded"))
    stored = stored_of(run, inspection.names.run, inspection.data.run.samples[inspection.row].id)
    return replace(run, sides=sides, stored=stored, id=secrets.token_hex(8))


def compare_values(
    inspection: Inspection, settings: AppSettings
) -> tuple[str | None, list[Any], dict[str, dict[str, Any]]] | None:
    """(picture, the question's fields, side -> its fields) that ask the open sample again; None where none is open.

    picture: a file; None where the sample's own is not there.
    """
    run = inspection.run
    if run is None:
        return None
    ask = ask_form_of(run.request)
    sides = {}
    for side, part in run.sides.items():
        form = asdict(shown_side(part.settings))
        if settings.offered and form["checkpoint"] not in settings.offered:
            form.pop("checkpoint")  # not offered here: the tab keeps its own
        sides[side] = {name: form[name] for name in SIDE_FIELDS if name in form}
    picture = picture_file(run.picture) if inspection.pictured else None
    return picture, [ask.task, ask.text, ask.choices, ask.box, ask.ocr_text, ask.mode], sides
