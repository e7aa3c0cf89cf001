"""Which rows a user's Study tab shows: those that the server opens with, or an uploaded file, for this user alone."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from vlcompare.errors import VLCompareError
from vlcompare.study.opened import SHIPPED, Study, open_study
from vlcompare.study.tables import Row

_MOST_PICTURE_BYTES = 4 * 2**20


class Shelf:
    """What one server opens with: a folder given by the operator, or the rows that come with the project.

    They are read when a user opens the tab, and again where the file has changed since, as it does while a grid trains.
    """

    def __init__(self, given: Path | None = None) -> None:
        self._path = given or SHIPPED / "cpu"
        self._lock = threading.Lock()
        self._read: tuple[object, Study] | None = None

    def study(self) -> Study:
        """The rows as they are now. Raises SampleError where they cannot be read."""
        file = self._path / "rows.jsonl" if self._path.is_dir() else self._path
        with self._lock:
            status = file.stat() if file.exists() else None
            version = status and (status.st_mtime_ns, status.st_size)
            if self._read is None or self._read[0] != version:
                self._read = version, open_study(self._path)
            return self._read[1]


class StudySession:
    """One user's state. A copy is a new one: gradio copies a state's first value for every user."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.uploaded: Study | None = None
        self.filled = False  # whether the tab's regions were put out

    def __deepcopy__(self, memo: dict[int, Any]) -> StudySession:
        return StudySession(self.shelf)

    @property
    def study(self) -> Study:
        return self.uploaded or self.shelf.study()


def picture_rows(folder: Path = SHIPPED / "pictures") -> list[Row]:
    """The rows of the grids on pictures; none where the folder is not there, or holds no whole file of them."""
    file = folder / "rows.jsonl"
    try:
        with file.open("rb") as opened:
            lines = opened.read(_MOST_PICTURE_BYTES).split(b"\n")[:-1]
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, VLCompareError):
        return []
    return [row for row in rows if isinstance(row, dict) and row]
