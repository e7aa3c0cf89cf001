"""One visitor's inspection: which runs are open, which two sides are compared, the selection, the open sample.

State and its rules only: what the page shows of it is made in `inspect_actions`. Knows nothing of gradio or markup.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.evaluate.results.notes import Note
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.table import Rows
from vlcompare.ui.checkpoint_names import name_of
from vlcompare.ui.compare.session import Run
from vlcompare.ui.inspect.library import Library, Side
from vlcompare.ui.inspect.query import Query
from vlcompare.ui.inspect.selection import Opened
from vlcompare.ui.inspect.views import Names

MOST_OPEN = 6


class Inspection:
    """One visitor's state. Made afresh wherever it is copied: gradio copies a state's first value for every visitor."""

    def __init__(self, library: Library) -> None:
        self.catalogue = library
        self.lock = threading.RLock()
        self.open: dict[str, RunFolder] = {}  # key -> run, in the order opened
        self.titles: dict[str, str] = {}
        self.unpacked: list[Any] = []  # folders of uploaded archives; removed with the session
        self.left = self.right = ""  # a side of an open run, as `side_choices` names it; right may be ""
        self.data: Opened | None = None  # the two sides together
        self.names = Names("", {})
        self.query = Query()
        self.rows: Rows = np.zeros(0, np.int64)
        self.row: int | None = None
        self.dimension = "task"
        self.measure = "score"
        self.run: Run | None = None  # the open sample, as the compare tab knows it
        self.pictured = False  # whether its picture is its own

    def __deepcopy__(self, memo: dict[int, Any]) -> Inspection:
        return Inspection(self.catalogue)

    def close(self) -> None:
        """The visitor left: let go of everything; but whoever has an action at work is there, and has come back.

        gradio calls this where all visitors' events are handled: it must not wait for an action to end.
        """
        if not self.lock.acquire(blocking=False):
            return
        try:
            for folder in self.unpacked:
                folder.cleanup()
            self.unpacked, self.open, self.data, self.run = [], {}, None, None
        finally:
            self.lock.release()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Do something wholly or not at all: whatever goes wrong within, the state is then what it was before."""
        with self.lock:
            before = dict(self.__dict__)
            copies = {name: type(value)(value) for name, value in before.items() if type(value) in (dict, list)}
            try:
                yield
            except BaseException:
                self.__dict__.update({**before, **copies})
                raise

    # ---- which runs, which sides -------------------------------------------------------------------------------------

    def choose(self, keys: Sequence[str]) -> None:
        """Open these runs and close the others. Raises VLCompareError where one cannot be opened."""
        wanted = list(dict.fromkeys(keys))
        if len(wanted) > MOST_OPEN:
            raise RequestError(f"At most {MOST_OPEN} runs can be open at a time.")
        opened = {}
        for key in wanted:
            if key in self.open:
                opened[key] = self.open[key]
                continue
            place = self.catalogue.find(key)
            opened[key] = self.catalogue.run(place.folder)
            self.titles[key] = place.title
        self._opened(opened)

    def add(self, key: str, title: str, run: RunFolder) -> None:
        """Open a run that was uploaded, and look at it."""
        if len(self.open) >= MOST_OPEN:
            raise RequestError(f"At most {MOST_OPEN} runs can be open at a time: close one first.")
        self.titles[key] = title
        self.left = ""
        self._opened({key: run, **self.open})

    def _opened(self, opened: dict[str, RunFolder]) -> None:
        self.open = opened
        known = [value for value, _ in self.side_choices()]
        if self.left not in known or (self.right and self.right not in known):
            self.left, self.right = _first_pair(known)
            self.query, self.row, self.run = Query(), None, None
        try:
            self._join()
        except VLCompareError:
            if not self.right:
                raise
            self.right = ""  # the two share no sample: the first is looked at alone
            self._join()

    def side_choices(self) -> list[tuple[str, str]]:
        """(value, title) of every side of every open run."""
        found = []
        for key, run in self.open.items():
            for side in run.sides:
                title = side_title(run, side)
                found.append((f"{key}\n{side}", f"{self.titles[key]}: {title}" if len(self.open) > 1 else title))
        return found

    def set_sides(self, left: str, right: str) -> None:
        """Compare these two sides. Raises RequestError for sides that are not open, or have no sample in common."""
        known = {value for value, _ in self.side_choices()}
        if left not in known or (right and right not in known):
            raise RequestError("This side is of no run that is open here.")
        before = self.left, self.right
        self.left, self.right = left, "" if right == left else right
        try:
            self._join()
        except VLCompareError:
            self.left, self.right = before
            raise
        self.row, self.run = None, None

    def _join(self) -> None:
        if not self.open:
            self.data, self.rows, self.row, self.run = None, np.zeros(0, np.int64), None, None
            return
        keys = [value.rpartition("\n")[0] for value in (self.left, self.right) if value]
        sides = [
            Side(self.open[key], value.rpartition("\n")[2])
            for key, value in zip(keys, (self.left, self.right), strict=False)
        ]
        data = self.catalogue.pair(sides[0], sides[1] if len(sides) > 1 else None)
        several = len(set(keys)) > 1
        titles = {
            role: side_title(side.run, side.name) + (f" ({self.titles[key]})" if several else "")
            for role, side, key in zip(("left", "right"), sides, keys, strict=False)
        }
        named = " against ".join(dict.fromkeys(self.titles[key] for key in keys))
        known = tuple(pair for pair in self.query.slices if pair[0] in data.table.aspects)
        query = replace(self.query, slices=known)  # what these samples say nothing about cannot narrow them
        rows = data.select(query, data.run.notes.all())  # may be refused: nothing has changed before
        self.data, self.names, self.query, self.rows = data, Names(named, titles), query, rows
        if self.dimension not in data.table.aspects:
            self.dimension = next(iter(data.table.aspects), "task")
        has_boxes = "grounding" in data.table.main
        self.measure = "iou" if has_boxes else "score"

    # ---- the selection -----------------------------------------------------------------------------------------------

    def notes(self) -> Mapping[str, Note]:
        """What was noted, by sample id."""
        return self.data.run.notes.all() if self.data else {}

    def select(self) -> None:
        """Find the rows of the query. Raises RequestError for a pattern that cannot be used."""
        if self.data is not None:
            self.rows = self.data.select(self.query, self.notes())

    def change(self, query: Query) -> None:
        """Take a new query; where it cannot be used, the old one stays and VLCompareError says why."""
        before, self.query = self.query, query
        try:
            self.select()
        except VLCompareError:
            self.query = before
            raise

    def place(self) -> int | None:
        """Where the open sample stands in the selection."""
        found = np.flatnonzero(self.rows == self.row) if self.row is not None else ()
        return int(found[0]) if len(found) else None

    def neighbour(self, step: int) -> int | None:
        """The sample `step` places on in the selection; the first where none is open; None at the ends."""
        if not len(self.rows):
            return None
        place = self.place()
        wanted = 0 if place is None else place + step
        return int(self.rows[wanted]) if 0 <= wanted < len(self.rows) else None


def side_title(run: RunFolder, side: str) -> str:
    """The side's model as it is called on the page, with what was changed about it."""
    recorded, asked = recorded_of(run, side)
    quantization = recorded.get("quantization") or asked.get("quantization")
    more = [str(quantization)] if quantization not in (None, "none") else []
    if asked.get("prompt_order") == "instruction_first":
        more.append("instruction first")
    if asked.get("image_size"):
        more.append(f"{asked['image_size']} px")
    return " · ".join([name_of(run.checkpoint(side)).title, *more])


def recorded_of(run: RunFolder, side: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """(what a side turned out to be, what was asked of it), from run.json; empty where it does not say."""
    recorded = (run.record.get("sides") or {}).get(side) or {}
    asked = ((run.record.get("identity") or {}).get("sides") or {}).get(side) or {}
    return recorded, asked


def _first_pair(known: Sequence[str]) -> tuple[str, str]:
    """The first run's left and right; for runs of one side each, the first two of them."""
    if not known:
        return "", ""
    own = [value for value in known if value.rpartition("\n")[0] == known[0].rpartition("\n")[0]]
    by_side = {value.rpartition("\n")[2]: value for value in own}
    if {"left", "right"} <= set(by_side):
        return by_side["left"], by_side["right"]
    return (known[0], known[1] if len(known) > 1 else "")
