"""The study tab's actions: each gives the regions that change, or the file to save."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.evaluate.published_gaps import published_gaps
from vlcompare.render.markup import Safe
from vlcompare.study.opened import MOST_BYTES, study_of
from vlcompare.study.tables import as_csv
from vlcompare.ui.compare.cards import message
from vlcompare.ui.compare.files import write_file
from vlcompare.ui.server.uploads import read_file
from vlcompare.ui.study import views
from vlcompare.ui.study.session import StudySession, picture_rows


class StudyUpdate(TypedDict, total=False):
    """New content of regions. Whatever is left out stays as it is."""

    message: Safe
    intro: Safe
    figures: Safe
    published: Safe
    pictures: Safe


REGIONS = ("message", "intro", "figures", "published", "pictures")


def fill(session: StudySession) -> StudyUpdate:
    """The tab is shown: everything that is read from files, once a visit."""
    if session.filled:
        return {}
    session.filled = True
    try:
        update = _of_rows(session)
    except VLCompareError as error:
        update = {"message": message(str(error), "error")}
    return {**update, "published": views.published(published_gaps()), "pictures": views.pictures(picture_rows())}


def upload(session: StudySession, path: str | None) -> StudyUpdate:
    """Show an uploaded file of rows, to this user alone. path: as the client sent it."""
    if not path:
        return {}
    try:
        session.uploaded = study_of(read_file(path, MOST_BYTES, "file of rows"), Path(path).name[:60])
        return {**_of_rows(session), "message": views.opened(session.uploaded.name)}
    except VLCompareError as error:
        return {"message": message(str(error), "error")}


def back(session: StudySession) -> StudyUpdate:
    """Show the rows again that the server opens with."""
    session.uploaded = None
    return {**_of_rows(session), "message": message("")}


def csv(session: StudySession, name: str) -> str:
    """A figure's table as a file. Raises RequestError for an unknown figure."""
    figure = next((one for one in session.study.figures if one.name == name), None)
    if figure is None:
        raise RequestError("These rows have no such figure.")
    return write_file(f"{name}.csv", as_csv(figure.records).encode())


def _of_rows(session: StudySession) -> StudyUpdate:
    study = session.study
    return {"intro": views.intro(session.shelf.study()), "figures": views.figures(study)}
