"""The study tab's actions: each gives the regions that change, or the file to save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.evaluate.published_gaps import published_gaps
from vlcompare.render.markup import Safe
from vlcompare.study.figures import Figure
from vlcompare.study.opened import MAX_BYTES, PictureStudy, any_study_of
from vlcompare.study.pictures.figures import in_short
from vlcompare.study.tables import as_csv
from vlcompare.ui.compare.cards import message
from vlcompare.ui.compare.files import write_file
from vlcompare.ui.server.redact import without_paths
from vlcompare.ui.server.uploads import read_file
from vlcompare.ui.study import figures, pictures, views
from vlcompare.ui.study.session import StudySession


class StudyUpdate(TypedDict, total=False):
    """New content of regions. Whatever is left out stays as it is."""

    message: Safe
    intro: Safe
    figures: Safe
    published: Safe
    pictures: Safe


REGIONS = ("message", "intro", "figures", "published", "pictures")


def fill(session: StudySession) -> StudyUpdate:
    """The tab is shown: everything that is read from files, once a visit. What cannot be read leaves the rest, and is
    read again at the next visit."""
    if session.filled:
        return {}
    session.filled = True
    update: StudyUpdate = {"published": views.published(published_gaps()), "intro": _intro(session)}
    told: list[str] = []
    for part in (_of_text, _of_pictures):
        try:
            update = {**update, **part(session)}
        except VLCompareError as error:
            told.append(without_paths(str(error)))
    if told:
        session.filled = False
        update["message"] = message(" ".join(told), "error")
    return update


def upload(session: StudySession, path: str | None) -> StudyUpdate:
    """Show an uploaded file of rows, to this user alone. path: as the client sent it."""
    if not path:
        return {}
    try:
        found = any_study_of(read_file(path, MAX_BYTES, "file of rows"), Path(path).name[:60])
        said: StudyUpdate = {"message": views.opened(found.name, on_pictures=isinstance(found, PictureStudy))}
        if isinstance(found, PictureStudy):
            shown = pictures.section(found)  # may raise: nothing is changed before it
            session.uploaded_pictures = found
            return {**said, "pictures": shown}
        session.uploaded = found
        return {**said, **_of_text(session), "intro": _intro(session)}
    except VLCompareError as error:
        return {"message": message(str(error), "error")}


def back(session: StudySession) -> StudyUpdate:
    """Show the rows again that the server opens with."""
    session.uploaded = session.uploaded_pictures = None
    session.filled = False
    return {"message": message(""), **fill(session)}


def csv(session: StudySession, name: str) -> str:
    """A figure's table as a file. Raises RequestError for an unknown figure."""
    figure = next((one for one in _shown(session) if one.name == name), None)
    if figure is None:
        raise RequestError("These rows have no such figure.")
    return write_file(f"{name}.csv", as_csv(figure.records).encode())


def _shown(session: StudySession) -> Iterator[Figure]:
    yield from session.study.figures
    yield from session.pictures.figures


def _of_text(session: StudySession) -> StudyUpdate:
    lab = session.uploaded is None and session.shelf.given is None  # whose models are of these rows for sure
    return {"figures": figures.figures(session.study, of_the_lab=lab)}


def _of_pictures(session: StudySession) -> StudyUpdate:
    return {"pictures": pictures.section(session.pictures)}


def _intro(session: StudySession) -> Safe:
    """The paragraph, of what can be read."""
    study, gaps = None, ""
    with suppress(VLCompareError):
        study = session.shelf.study()
    with suppress(VLCompareError):
        shown = session.shelf.pictures()
        gaps = in_short(shown.figures, shown.rows)
    return views.intro(study, gaps)
