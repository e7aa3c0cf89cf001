"""Which run folders a user may open, and the runs that are in memory. Shared by all users of one server.

Runs are listed below the operator's folder, in the folders given on the command line, and in the project's examples;
nothing else on the server can be opened. A run that changed on the disk is read again.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from vlcompare.errors import SampleError
from vlcompare.evaluate import run_files
from vlcompare.evaluate.results.archive import open_archive
from vlcompare.evaluate.results.run_folder import NOTES, RunFolder, find_runs, half_runs, join
from vlcompare.paths import EXAMPLES
from vlcompare.types import SIDES
from vlcompare.ui import examples
from vlcompare.ui.inspect.selection import Opened
from vlcompare.ui.inspect.thumbnails import Thumbnails

MAX_LISTED = 200
MAX_KEPT = 3  # opened runs, and pairs of runs, in memory
_EXAMPLE = " (example)"


class RunSide(NamedTuple):
    """One side of one open run."""

    run: RunFolder
    name: str


class Library:
    """The runs of one server."""

    def __init__(
        self,
        allow_path: Path | None = None,
        given: Sequence[Path] = (),
        shipped: Path | None = None,
        pictures: Sequence[Path] = (),
    ) -> None:
        """pictures: folders outside of the runs whose pictures may be shown, besides those of the user's own runs."""
        self._allow = allow_path
        self._given = tuple(path for path in given if path.suffix != ".zip")
        self._unpacked = [_unpack(path) for path in given if path.suffix == ".zip"]
        self._shipped = shipped
        self._pictures = tuple(pictures)
        self._runs = _Cache()
        self._pairs = _Cache()
        self.thumbnails = Thumbnails()

    def listed(self) -> dict[str, Path]:
        """Name -> folder of what can be opened now: the given folders first, the project's example last."""
        titles: dict[Path, str] = {run.path: name for name, run, _ in self._unpacked}
        for folder in self._given:
            for run in find_runs(folder, 1):
                titles.setdefault(run.resolve(), run.resolve().name)
        if self._allow is not None:
            for run in find_runs(self._allow):
                titles.setdefault(run.resolve(), str(run.relative_to(self._allow)) if run != self._allow else run.name)
        for run in find_runs(self._shipped or examples.FOLDER, 1):
            titles.setdefault(run.resolve(), f"{run.name}{_EXAMPLE}")
        listed: dict[str, Path] = {}
        for folder, title in list(titles.items())[:MAX_LISTED]:
            listed[unused_name(title, listed)] = folder
        return listed

    def not_listed(self) -> list[str]:
        """Sentences about folders that are half a run, among those given and below the operator's folder."""
        folders = [(folder, 1) for folder in self._given] + ([(self._allow, 2)] if self._allow else [])
        return list(dict.fromkeys(said for folder, depth in folders if (said := half_runs(folder, depth))))

    def first(self) -> str | None:
        """The run that the page opens with: the first given one, else the example that comes with the project."""
        names = list(self.listed())
        given = bool(self._given or self._unpacked)
        return next((name for name in names if given or name.endswith(_EXAMPLE)), None)

    def open(self, name: str) -> RunFolder:
        """The listed run of this name. Raises SampleError, with its name, where it is not listed or cannot be read."""
        folder = self.listed().get(name)
        if folder is None:
            raise SampleError("This run is not among those that can be opened here.")
        try:
            return self.run(folder)
        except SampleError as error:
            raise SampleError(f"{name} cannot be opened: {error}") from error

    def run(self, folder: Path) -> RunFolder:
        """The run in `folder`, from memory where it has not changed."""
        for _, run, _ in self._unpacked:
            if run.path == folder:
                return run
        # the program's own files stay as they were installed: notes on a shipped run go to the user's data folder
        read_only = True if folder.is_relative_to(EXAMPLES) and not (folder / NOTES).exists() else None
        return self._runs.get(
            (folder, _stamp(folder)), lambda: RunFolder.open(folder, read_only=read_only, pictures=self._pictures)
        )

    def pair(self, left: RunSide, right: RunSide | None) -> Opened:
        """The two sides beside each other as columns, from memory where they were made before."""
        key = tuple((id(side.run), side.name) if side else None for side in (left, right))
        # the cache holds the runs, too: once a run is freed, its id may be that of another
        return self._pairs.get(key, lambda: (_beside(left, right), left, right))[0]


def unused_name(name: str, used: Container[str]) -> str:
    """The name, with a number behind it where it is used already."""
    return next(each for number in count(1) if (each := name if number == 1 else f"{name} {number}") not in used)


def _unpack(path: Path) -> tuple[str, RunFolder, Any]:
    """(name, run, the temporary folder, which is removed with the server) of a run archive."""
    folder = tempfile.TemporaryDirectory(prefix="vlcompare-run-", ignore_cleanup_errors=True)
    return path.stem, open_archive(path, Path(folder.name) / "run"), folder


def _beside(left: RunSide, right: RunSide | None) -> Opened:
    if right is None:
        only = left.run.sides[left.name]
        run = left.run if len(left.run.sides) == 1 else _part(left.run, {left.name: only})
        return Opened(run)
    if left.run is right.run and list(left.run.sides) == [left.name, right.name] == list(SIDES):
        return Opened(left.run)
    return Opened(join((left.run, left.name), (right.run, right.name)))


def _part(run: RunFolder, sides: dict[str, Any]) -> RunFolder:
    return RunFolder(run.path, run.record, run.samples, sides, run.read_only, run.allowed, list(run.problems))


class _Cache:
    """The last few values made, by key. Two callers that ask for the same at once wait for one making."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                with self._lock:
                    if key in self._values:
                        self._values.move_to_end(key)
                        return self._values[key]
                made = make()
                with self._lock:
                    self._values[key] = made
                    while len(self._values) > MAX_KEPT:
                        self._values.popitem(last=False)
                return made
        finally:
            with self._lock:
                self._making.pop(key, None)


def _stamp(folder: Path) -> tuple[int, ...]:
    """Changes whenever the run's files do."""
    names = (run_files.RUN, run_files.SAMPLES, run_files.SUMMARY)
    stamp: list[int] = []
    for path in (*(folder / name for name in names), *run_files.parts(folder)):
        try:
            stat = path.stat()
            stamp += [stat.st_mtime_ns, stat.st_size]
        except OSError:
            stamp += [0, 0]
    return tuple(stamp)
