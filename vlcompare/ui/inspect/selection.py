"""From the user's query to rows and values of the page's table; a thin layer over the evaluation's table.

The two sides are called "left" and "right" here, whatever the run calls them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompare.evaluate.replies import read_reply
from vlcompare.evaluate.results.aspects import target_box
from vlcompare.evaluate.results.differences import LEAST_ROWS, Difference, largest_differences
from vlcompare.evaluate.results.notes import Note
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.slices import SliceRow
from vlcompare.evaluate.results.table import UNSCORED, Filter, Rows, RunTable, summary_of
from vlcompare.evaluate.run_files import SUMMARY
from vlcompare.render.charts import Measure
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES, Box
from vlcompare.ui.inspect.query import PAGE_ROWS, Query

MEASURES = {
    "iou": Measure("iou", "IoU with the truth", threshold=0.5),
    "score": Measure("score", "score"),
    "confidence": Measure("confidence", "confidence"),
    "words": Measure("words", "words of the answer", None),
}
SORT_COLUMNS = {"left": "score_left", "right": "score_right", "difference": "difference", "gap": "confidence_gap"}
MAX_RANKED = 24  # slices whose difference is shown
MAX_BOXES = 8  # of a side, on a small picture
Ranked = tuple[list[tuple[Difference, SliceRow]], list[Difference]]  # the largest differences, and all that were tested
_numbers = itertools.count(1)
_BOXES = re.compile(r"\|\||\s*\[[\d., ]+\]")  # what a grounded caption holds besides its words


@dataclass(frozen=True, slots=True)
class Names:
    """How the run and its sides are called."""

    run: str
    sides: Mapping[str, str]  # side -> its model, in the order shown

    @property
    def both(self) -> bool:
        return len(self.sides) == 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One side's answer in a row of the table."""

    text: str = ""  # as the model wrote it, or the error
    right: bool | None = None
    score: float | None = None
    iou: float | None = None
    confidence: float | None = None
    state: str = "ok"  # "ok", "missing", "error", "unparseable"


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A row of the table."""

    row: int
    id: str
    task: str
    text: str
    cells: Mapping[str, Cell]
    gap: float | None = None
    expected: str = ""
    noted: Sequence[str] = ()
    picture: str = ""  # its key in `thumbnails`; "" without a picture
    boxes: Sequence[tuple[str, Box]] = ()  # to draw on it: "truth", "left" or "right", and the box


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a query, from the widest to what is listed; those of `rows` are in the query's order."""

    query: Query
    wide: Rows  # by words, notes, confidence and length
    base: Rows  # and by slices
    rows: Rows  # and by how the answers turned out


def ranked(table: RunTable, rows: Rows) -> Ranked:
    """Where the sides differ most among these rows."""
    found = largest_differences(table, rows)
    return [(one, one.figures(table)) for one in found[:MAX_RANKED]], found


class Opened:
    """Two sides (or one) beside each other, as columns. Never changed once made, so that users can share it."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.table = run, RunTable(run)
        self.key = next(_numbers)  # its own for as long as the program runs
        self._measures: dict[tuple[str, str], NDArray[Any]] = {}

    @property
    def roles(self) -> dict[str, str]:
        """ "left", and where there are two "right" -> the side's name in the run."""
        return dict(zip(SIDES, self.table.sides, strict=False))

    def measure(self, role: str, name: str) -> NDArray[Any]:
        """A measure's values of one side, nan where it is missing."""
        side = self.roles.get(role)
        if side is None or name not in MEASURES:
            return np.full(self.table.count, np.nan)
        key = side, name
        if key not in self._measures:
            self._measures[key] = self._measured(side, name)
        return self._measures[key]

    def measures(self, rows: Rows) -> list[str]:
        """What one of these rows has on every side; the score last where it is one of two values, right or wrong, whose
        samples a chart would draw as one mark."""
        found = {}
        for name in MEASURES:
            values = np.stack([self.measure(role, name)[rows] for role in self.roles])
            known = values[:, np.isfinite(values).all(axis=0)]
            if known.size:
                found[name] = name != "score" or bool(((known > known.min()) & (known < known.max())).any())
        return sorted(found, key=lambda name: not found[name])

    def _measured(self, side: str, name: str) -> NDArray[Any]:
        score = self.table.score[side]
        if name == "iou":
            return np.where(np.array(self.table.task) == "grounding", score, np.nan)
        if name == "confidence":
            return np.exp(np.minimum(self.table.confidence[side], 0.0))
        if name == "words":
            rows = self.run.sides[side].rows
            return np.array([math.nan if row is None else len(str(row.get("text") or "").split()) for row in rows])
        return score

    @property
    def summary_known(self) -> bool:
        """Whether `summary` is there at once: in a file, or computed already."""
        return "summary" in self.__dict__ or (not self.run.parts and (self.run.path / SUMMARY).is_file())

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures of all rows."""
        return summary_of(self.run)

    @cached_property
    def ranked(self) -> Ranked:
        """Where the sides differ most, among all rows: what every user sees who searches for nothing."""
        return ranked(self.table, np.arange(self.table.count))

    # ---- filters -----------------------------------------------------------------------------------------------------

    def select(self, query: Query, notes: Mapping[str, Note], before: Selection | None = None) -> Selection:
        """The rows of a query. Raises RequestError for a pattern or a slice that cannot be used.

        before: an earlier selection from the same rows and notes; what it has in common is not searched again.
        """
        wide = before.wide if before and before.query.wide == query.wide else self._wide(query.wide, notes)
        base = self.table.select(Filter(aspects=dict(query.slices)), wide) if query.slices else wide
        return Selection(query, wide, base, self._sorted(self._by_outcome(base, query), query))

    def _wide(self, query: Query, notes: Mapping[str, Note]) -> Rows:
        samples = None
        if query.noted == "noted" or query.tag:
            samples = frozenset(key for key, note in notes.items() if not query.tag or query.tag in note.tags)
        text, pattern = ("", query.text) if query.regex else (query.text, "")
        wanted = Filter(text=text, pattern=pattern, min_confidence_gap=query.gap or None, samples=samples)
        rows = self.table.select(wanted)
        if query.noted == "bare":
            ids = set(notes)
            rows = rows[[self.run.samples[i].id not in ids for i in rows]] if len(rows) else rows
        return self._in_ranges(rows, query)

    def _by_outcome(self, rows: Rows, query: Query) -> Rows:
        outcome = query.outcome
        quadrants = (outcome.quadrant,) if outcome.quadrant else ()
        if quadrants or outcome.disagree:
            rows = self.table.select(Filter(quadrants=quadrants, disagreeing=outcome.disagree), rows)
        return self._in_ranges(rows, outcome)

    def _in_ranges(self, rows: Rows, query: Query) -> Rows:
        for span in query.ranges:
            column = self.measure(span.side, span.measure)[rows]
            with np.errstate(invalid="ignore"):
                rows = rows[(column >= span.low) & (column < span.high)]
        return rows

    def _sorted(self, rows: Rows, query: Query) -> Rows:
        if query.sort == "text":
            samples = self.run.samples
            order = sorted(rows.tolist(), key=lambda i: samples[i].text.lower(), reverse=query.descending)
            return np.array(order, dtype=np.int64)
        if query.sort in ("right", "difference", "gap") and len(self.roles) < 2:
            return rows
        return self.table.sort(rows, SORT_COLUMNS.get(query.sort, "order"), query.descending)

    def quadrant_counts(self, selection: Selection) -> dict[str, int]:
        """How many samples each quadrant would select, with all other filters as they are."""
        return self.table.quadrant_counts(self._by_outcome(selection.base, replace(selection.query, quadrant="")))

    @cached_property
    def dimensions(self) -> dict[str, str]:
        """Name -> title of the slices to choose from: no tag that nearly tells one row from the next, none twice."""
        known: dict[bytes, str] = {}
        for name, aspect in self.table.aspects.items():
            if not aspect.near_unique(LEAST_ROWS):
                known.setdefault(aspect.codes.tobytes(), name)
        return {name: self.table.aspects[name].title for name in known.values()}

    def slice_title(self, dimension: str, value: str) -> str:
        """How a slice is called; one that these samples do not have by its own words."""
        aspect = self.table.aspects.get(dimension)
        return aspect.slice_title(value) if aspect else f"{dimension}: {value}"

    @cached_property
    def pictures(self) -> Rows:
        """The first row of each picture, by the picture's number in `table.clusters`."""
        return np.unique(self.table.clusters, return_index=True)[1]

    # ---- rows --------------------------------------------------------------------------------------------------------

    def page(self, rows: Rows, query: Query, notes: Mapping[str, Note]) -> list[SampleRow]:
        """The rows of the query's page; of the last page where there are not as many."""
        last = max(0, (len(rows) - 1) // PAGE_ROWS)
        start = min(query.page, last) * PAGE_ROWS
        return [self.row(int(row), notes) for row in rows[start : start + PAGE_ROWS]]

    def row(self, row: int, notes: Mapping[str, Note]) -> SampleRow:
        """One sample as the table and the sample view show it."""
        sample = self.run.samples[row]
        gap = abs(float(self.table.confidence_gap()[row])) if len(self.roles) == 2 else math.nan
        note = notes.get(sample.id)
        noted: Sequence[str] = (*note.tags, *(("note",) if note.text else ())) if note else ()
        cells = {role: self._cell(role, row) for role in self.roles}
        expected = _BOXES.sub("", sample.references[0]) if sample.references and not sample.text else ""
        known = None if math.isnan(gap) else gap
        picture = f"{self.key}-{self.table.clusters[row]}" if sample.image is not None else ""
        boxes = tuple(self._boxes(row))
        return SampleRow(row, sample.id, sample.task, sample.text, cells, known, expected, noted, picture, boxes)

    def _boxes(self, row: int) -> Iterator[tuple[str, Box]]:
        """What is drawn on the row's small picture: the truth, and both sides' boxes."""
        sample = self.run.samples[row]
        target = target_box(sample)
        truth = sample.boxes[:MAX_BOXES] if sample.task == "grounded_captioning" else (target,) if target else ()
        yield from (("truth", Box(*box)) for box in truth)
        for role, side in self.roles.items():
            answer = self.run.sides[side].rows[row]
            reply = read_reply(sample, answer) if answer and not answer.get("error") else None
            yield from ((role, box) for box in (reply.boxes[:MAX_BOXES] if reply else ()))

    def _cell(self, role: str, row: int) -> Cell:
        side, sample = self.roles[role], self.run.samples[row]
        answer = self.run.sides[side].rows[row]
        if answer is None:
            return Cell(state="missing", right=False if self.table.right[side][row] != UNSCORED else None)
        state = "error" if answer.get("error") else "ok"
        if state == "ok" and SPECS[sample.task].structured and not read_reply(sample, answer).readable:
            state = "unparseable"
        right = int(self.table.right[side][row])
        score, confidence = float(self.table.score[side][row]), float(self.table.confidence[side][row])
        known = None if math.isnan(score) else score
        return Cell(
            text=str(answer.get("error") or answer.get("text") or ""),
            right=None if right == UNSCORED else bool(right),
            score=known,
            iou=known if sample.task == "grounding" else None,
            confidence=None if math.isnan(confidence) else math.exp(min(0.0, confidence)),
            state=state,
        )
