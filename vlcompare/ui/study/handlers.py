"""The study tab's actions: each gives the regions that change, or the file to save."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.evaluate.published_gaps import published_gaps
from vlcompare.render.markup import Safe
from vlcompare.study.opened import MOST_BYTES, PictureStudy, any_study_of
from vlcompare.study.tables import as_csv
from vlcompare.ui.compare.cards import message
from vlcompare.ui.compare.files import write_file
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
    """The tab is shown: everything that is read from files, once a visit."""
    if session.filled:
        return {}
    session.filled = True
    update: StudyUpdate = {"published": views.published(published_gaps())}
    try:
        update = {**update, **_of_text(session)}
        return {**update, "pictures": pictures.section(session.pictures)}
    except VLCompareError as error:
        return {**update, "message": message(str(error), "error")}


def upload(session: StudySession, path: str | None) -> StudyUpdate:
    """Show an uploaded file of rows, to this user alone. path: as the client sent it."""
    if not path:
        return {}
    try:
        found = any_study_of(read_file(path, MOST_BYTES, "file of rows"), Path(path).name[:60])
        said: StudyUpdate = {"message": views.opened(found.name, on_pictures=isinstance(found, PictureStudy))}
        if isinstance(found, PictureStudy):
            shown = pictures.section(found)  # may raise: nothing is changed before it
            session.uploaded_pictures = found
            return {**said, "pictures": shown}
        session.uploaded = found
        return {**said, **_of_text(session)}
    except VLCompareError as error:
        return {"message": message(str(error), "error")}


def back(session: StudySession) -> StudyUpdate:
    """Show the rows again that the server opens with."""
    session.uploaded = session.uploaded_pictures = None
    return {**_of_text(session), "pictures": pictures.section(session.pictures), "message": message("")}


def csv(session: StudySession, name: str) -> str:
    """A figure's table as a file. Raises RequestError for an unknown figure."""
    shown = (*session.study.figures, *session.pictures.figures)
    figure = next((one for one in shown if one.name == name), None)
    if figure is None:
        raise RequestError("These rows have no such figure.")
    return write_file(f"{name}.csv", as_csv(figure.records).encode())


def _of_text(session: StudySession) -> StudyUpdate:
    lab = session.uploaded is None and session.shelf.given is None  # whose models are of these rows for sure
    shown = figures.figures(session.study, of_the_lab=lab)
    return {"intro": views.intro(session.shelf.study(), session.shelf.pictures()), "figures": shown}
