"""One user's inspection: which runs are open, which two sides are compared, the selection, the open sample.

State and its rules only: what the page shows of it is made in `handlers`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.evaluate.results.differences import largest_differences
from vlcompare.evaluate.results.notes import Note
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.table import Rows
from vlcompare.types import SIDES
from vlcompare.ui.checkpoint_names import name_of
from vlcompare.ui.compare.session import Run
from vlcompare.ui.inspect.library import Library, RunSide
from vlcompare.ui.inspect.query import Query
from vlcompare.ui.inspect.selection import MEASURES, Names, Opened, Ranked, Selection, ranked

MAX_OPEN = 6
MAX_NOTED = 4  # runs, and pairs of them, whose notes can still be written after others were opened
_NO_ROWS: Rows = np.zeros(0, np.int64)
NOTHING = Selection(Query(), _NO_ROWS, _NO_ROWS, _NO_ROWS)


class Inspection:
    """One user's state. A copy is a new one: gradio copies a state's first value for every user."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.lock = threading.RLock()
        self.open: dict[str, RunFolder] = {}  # key -> run, in the order opened
        self.unpacked: list[Any] = []  # folders of uploaded archives; removed with the session
        self.left = self.right = ""  # a side of an open run, as `side_choices` names it; right may be ""
        self.data: Opened | None = None  # the two sides together
        self.names = Names("", {})
        self.selection = NOTHING
        self.row: int | None = None
        self.beside = False  # whether the open sample stands beside the list, as on a wide screen, and not over it
        self.unasked: int | None = None  # the open sample, where nobody has chosen it
        self.dimension = "task"
        self.measure = self.chosen_measure = ""  # what the charts draw; what the visitor has chosen of them
        self.gallery = False  # whether samples are listed as pictures
        self.offer = ""  # an open run that was just added, to be put on a side
        self._ranked: tuple[Rows, Ranked] | None = None
        self.noted: dict[str, RunFolder] = {}  # key of what was shown last -> its run, which a note's form may be of
        self.edits: dict[
            str, float
        ] = {}  # what a note's form is of -> number of its last edit, as the page counts them
        self.run: Run | None = None  # the open sample, as the compare tab knows it
        self.pictured = False  # whether its picture is its own

    def __deepcopy__(self, memo: dict[int, Any]) -> Inspection:
        return Inspection(self.library)

    def close(self) -> None:
        """Free the runs and remove unpacked archives, unless an action is still running.

        gradio calls this on the thread that handles all users' events: it must not wait for an action to end.
        """
        if not self.lock.acquire(blocking=False):
            return
        try:
            for folder in self.unpacked:
                folder.cleanup()
            self.unpacked, self.open, self.data, self.run, self.noted = [], {}, None, None, {}
        finally:
            self.lock.release()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """One block at a time; where it raises, the state becomes what it was before."""
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
        """Open these listed runs and close the others. Raises VLCompareError where one cannot be opened."""
        wanted = list(dict.fromkeys(keys))
        if len(wanted) > MAX_OPEN:
            raise RequestError(f"At most {MAX_OPEN} runs can be open at a time.")
        self._opened({key: self.open[key] if key in self.open else self.library.open(key) for key in wanted})

    def add(self, key: str, run: RunFolder) -> None:
        """Open a run that was uploaded: it is shown where no other is, else it is offered for a side."""
        if len(self.open) >= MAX_OPEN:
            raise RequestError(f"At most {MAX_OPEN} runs can be open at a time: close one first.")
        self._opened({**self.open, key: run})

    def _opened(self, opened: dict[str, RunFolder]) -> None:
        added = [key for key in opened if key not in self.open]
        self.open = opened
        known = [value for value, _ in self.side_choices()]
        if self.left not in known or (self.right and self.right not in known):
            self.left, self.right = _first_pair(known)
            self.selection, self.row, self.run = NOTHING, None, None
            added = []
        self.offer = added[-1] if added else self.offer if self.offer in opened else ""
        try:
            self._join()
        except VLCompareError:
            if not self.right:
                raise
            self.right = ""  # the two share no sample: the first is shown alone
            self._join()

    def side_choices(self) -> list[tuple[str, str]]:
        """(value, title) of every side of every open run."""
        return [
            (f"{key}\n{side}", (f"{key}: " if len(self.open) > 1 else "") + side_title(run, side))
            for key, run in self.open.items()
            for side in run.sides
        ]

    def show(self, key: str) -> None:
        """Show this open run's own two sides."""
        prefix = f"{key}\n"
        self.set_sides(*_first_pair([value for value, _ in self.side_choices() if value.startswith(prefix)]))

    def set_sides(self, left: str, right: str) -> None:
        """Compare these two sides. Raises RequestError for sides that are not open, or have no sample in common."""
        known = {value for value, _ in self.side_choices()}
        if left not in known or (right and right not in known):
            raise RequestError("This side is of no run that is open here.")
        with self.whole():
            self.left, self.right = left, "" if right == left else right
            self._join()
        self.row, self.run, self.offer = None, None, ""

    def _join(self) -> None:
        if not self.open:
            self.data, self.selection, self.row, self.run = None, NOTHING, None, None
            return
        chosen = [value.rpartition("\n") for value in (self.left, self.right) if value]
        keys = list(dict.fromkeys(key for key, _, _ in chosen))
        sides = [RunSide(self.open[key], name) for key, _, name in chosen]
        data = self.library.pair(sides[0], sides[1] if len(sides) > 1 else None)
        titles = {
            role: side_title(*side) + (f" ({key})" if len(keys) > 1 else "")
            for role, side, (key, _, _) in zip(SIDES, sides, chosen, strict=False)
        }
        known = tuple(pair for pair in self.query.slices if pair[0] in data.table.aspects)
        query = replace(self.query, slices=known)  # slices by what these samples hold no value of are dropped
        selection = data.select(query, data.run.notes.all())  # may raise: nothing is changed before it
        self.data, self.names, self.selection = data, Names(" against ".join(keys), titles), selection
        self.noted.pop(str(data.key), None)
        self.noted[str(data.key)] = data.run
        for key in list(self.noted)[:-MAX_NOTED]:
            del self.noted[key]
        if self.dimension not in data.dimensions:
            self.dimension = next(iter(data.dimensions), "task")
        self._measure_selection()

    # ---- the selection -----------------------------------------------------------------------------------------------

    @property
    def query(self) -> Query:
        return self.selection.query

    @property
    def rows(self) -> Rows:
        """The rows that are listed, in their order."""
        return self.selection.rows

    def form_of(self, sample: str) -> str:
        """What the note's form of a sample is of: the run besides, since runs may share ids."""
        return f"{self.data.key}:{sample}" if self.data and sample else ""

    def notes(self) -> Mapping[str, Note]:
        """What was noted, by sample id."""
        return self.data.run.notes.all() if self.data else {}

    def change(self, query: Query) -> None:
        """Take a new query. Raises RequestError for a pattern that cannot be used; the old query then stays."""
        if self.data is not None:
            by_notes = query.noted or query.tag  # which may have changed
            self.selection = self.data.select(query, self.notes(), None if by_notes else self.selection)
            self._measure_selection()

    def choose_measure(self, name: str) -> None:
        """Take the measure that the charts are to draw, for as long as the selection has it."""
        self.measure = self.chosen_measure = name

    def _measure_selection(self) -> None:
        """Draw what was chosen where the selection has it, else the first measure that it has."""
        assert self.data is not None
        found = self.data.measures(self.rows)
        if not found:  # as where nothing is selected
            self.measure = self.measure or next(iter(MEASURES))
        else:
            self.measure = self.chosen_measure if self.chosen_measure in found else found[0]

    def turn(self, query: Query) -> None:
        """Take a query that differs in its page alone."""
        self.selection = replace(self.selection, query=query)

    def differences(self) -> Ranked:
        """Where the sides differ most, among the rows that neither slices nor the outcome narrow."""
        if self.data is None:
            return [], []
        wide = self.selection.wide
        if len(wide) == self.data.table.count:
            return self.data.ranked
        if self._ranked is None or self._ranked[0] is not wide:
            self._ranked = wide, ranked(self.data.table, wide)
        return self._ranked[1]

    def slice_by_largest(self) -> None:
        """Slice by the aspect in which the sides differ most within the selection; as before without one."""
        if self.data is None:
            return
        found = largest_differences(self.data.table, self.selection.base)
        self.dimension = next((one.aspect for one in found if one.aspect in self.data.dimensions), self.dimension)

    def position(self) -> int | None:
        """The open sample's index in the selection."""
        positions = np.flatnonzero(self.rows == self.row) if self.row is not None else np.zeros(0, np.int64)
        return int(positions[0]) if len(positions) else None

    def place(self) -> str:
        """Where the open sample is in the selection, in words."""
        position, count = self.position(), len(self.rows)
        return "Not in this selection" if position is None else f"{position + 1:,} of {count:,} in this selection"

    def open_first(self) -> bool:
        """Open the first sample of the selection where there is room beside the list and the visitor has chosen none.

        Returns whether another one is open now.
        """
        before = self.row
        if not self.beside or before not in (None, self.unasked) or not len(self.rows):
            return False
        self.row = self.unasked = int(self.rows[0])
        return self.row != before

    def neighbour(self, step: int) -> int | None:
        """The sample `step` places on in the selection; the first where none is open; None at the ends."""
        position = self.position()
        wanted = 0 if position is None else position + step
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
    """(what was recorded of a side, what was asked for), from run.json; empty where it does not say."""
    recorded = (run.record.get("sides") or {}).get(side) or {}
    asked = ((run.record.get("identity") or {}).get("sides") or {}).get(side) or {}
    return recorded, asked


def _first_pair(known: Sequence[str]) -> tuple[str, str]:
    """The first run's left and right; for runs of one side each, the first two of them."""
    run = known[0].rpartition("\n")[0] if known else ""
    pair = [f"{run}\n{side}" for side in SIDES]
    left, right = pair if set(pair) <= set(known) else [*known, "", ""][:2]
    return left, right
