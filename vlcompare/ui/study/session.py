"""Which rows a user's Study tab shows: those that the server opens with, or an uploaded file, for this user alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from vlcompare.study.opened import SHIPPED, PictureStudy, Study, open_pictures, open_study, rows_file
from vlcompare.study.pictures.folder import holds_pictures

Rows = TypeVar("Rows", Study, PictureStudy)


class Shelf:
    """What one server opens with: a folder given by the operator, and for the kind of rows that it does not hold the
    rows that come with the project.

    They are read when a user opens the tab, and again where a file has changed since, as it does while a grid trains.
    """

    def __init__(self, given: Path | None = None, shipped: Path = SHIPPED) -> None:
        self.given = given
        self._shipped = shipped
        self._lock = threading.Lock()
        self._read: dict[str, tuple[object, Any]] = {}

    def study(self) -> Study:
        """The rows on text as they are now. Raises SampleError where they cannot be read."""
        path = self.given if self.given and not holds_pictures(rows_file(self.given)) else self._shipped / "cpu"
        return self._now("text", [path], lambda: open_study(path))

    def pictures(self) -> PictureStudy:
        """The rows on pictures as they are now; none where there are none yet. Raises SampleError as above."""
        name, paths = "The shipped rows", picture_files(self._shipped / "pictures")
        if self.given is not None and (own := picture_files(self.given)):
            name, paths = self.given.name, own
        return self._now("pictures", paths, lambda: open_pictures(paths, name) if paths else PictureStudy(name))

    def _now(self, kind: str, paths: Sequence[Path], read: Callable[[], Rows]) -> Rows:
        with self._lock:
            version = [(path, version_of(rows_file(path))) for path in paths]
            if kind not in self._read or self._read[kind][0] != version:
                self._read[kind] = version, read()
            found: Rows = self._read[kind][1]
            return found


def picture_files(path: Path) -> list[Path]:
    """The files of rows of trainings on pictures: `path` itself, or in this folder and in those in it."""
    if not path.is_dir():
        return [path] if holds_pictures(path) else []
    with suppress(OSError):
        return [file for file in sorted((*path.glob("*.jsonl"), *path.glob("*/rows.jsonl"))) if holds_pictures(file)]
    return []


def version_of(file: Path) -> object:
    """What is another value once the file, or what a folder holds, has changed; None where it is not there."""
    with suppress(OSError):
        status = file.stat()
        return status.st_mtime_ns, status.st_size
    return None


class StudySession:
    """One user's state. A copy is a new one: gradio copies a state's first value for every user."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.uploaded: Study | None = None
        self.uploaded_pictures: PictureStudy | None = None
        self.filled = False  # whether the tab's regions were put out

    def __deepcopy__(self, memo: dict[int, Any]) -> StudySession:
        return StudySession(self.shelf)

    @property
    def study(self) -> Study:
        return self.uploaded or self.shelf.study()

    @property
    def pictures(self) -> PictureStudy:
        return self.uploaded_pictures or self.shelf.pictures()
