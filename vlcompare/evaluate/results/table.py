"""A run as columns: one row a sample, numpy arrays beside lists of texts; filters, sorting and pages over them.

Built once a run; a filter gives row numbers, so that fifty thousand rows are filtered in milliseconds and only the rows
that are shown are ever turned into dictionaries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompare.errors import RequestError
from vlcompare.evaluate.results.aspects import Aspect, aspects_of, evidence_aspects
from vlcompare.evaluate.results.run_folder import RunFolder, without_collecting
from vlcompare.evaluate.results.safe_regex import Search
from vlcompare.evaluate.scoring import metric_of
from vlcompare.evaluate.statistics import cluster_codes
from vlcompare.evaluate.summary import TaskResult, evaluate, pair_of, summarise
from vlcompare.types import SIDES

QUADRANTS = ("both", "only_left", "only_right", "neither")
UNSCORED = -1
PATTERN_SECONDS = 5.0  # of computing, for one search through all rows
SEARCHED = 600  # characters of a row that are searched in
SORTS = ("order", "score_left", "score_right", "difference", "confidence_gap")

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Filter:
    """What to show; everything given must hold. `aspects` are slices: {"task": "grounding", "box size": "small"}."""

    quadrants: tuple[str, ...] = ()
    aspects: Mapping[str, str] = field(default_factory=dict)
    text: str = ""  # somewhere in id, question, references or answers, in any case
    pattern: str = ""  # a regular expression, searched for in the same
    disagreeing: bool = False  # the two answers' texts differ
    min_confidence_gap: float | None = None
    samples: frozenset[str] | None = None  # only these ids (those with a note, say)


class RunTable:
    """The columns of a run. `score[side]` is the main metric's value on each row: the IoU for boxes."""

    def __init__(self, run: RunFolder) -> None:
        with without_collecting():
            self._fill(run)

    def _fill(self, run: RunFolder) -> None:
        self.run = run
        self.count = len(run.samples)
        self.sides = pair_of(list(run.sides)) or tuple(list(run.sides)[:1])
        self.task = [sample.task for sample in run.samples]
        self.clusters = cluster_codes([sample.image_key or sample.id for sample in run.samples])
        self.score: dict[str, Floats] = {}
        self.right: dict[str, NDArray[np.int8]] = {}  # 1 right, 0 wrong, UNSCORED
        self.main: dict[str, str] = {}  # task -> metric that `score` holds
        self.confidence = {side: self._confidence(side) for side in self.sides}
        self._fill_scores()
        self.quadrant = self._quadrants()
        self.aspects: dict[str, Aspect] = aspects_of(run.samples)
        self.aspects |= evidence_aspects({side: run.sides[side].rows for side in self.sides})
        self._searched: list[str] | None = None

    def names(self, given: Sequence[str] = ()) -> list[str]:
        """What each side is called: its checkpoint; of two alike as `given`; of two alike still with its side."""
        checkpoints = [self.run.checkpoint(side) for side in self.sides]
        for found in (checkpoints, list(given)):
            if len(set(found)) == len(self.sides):
                return found
        return [f"{checkpoint} ({side})" for checkpoint, side in zip(checkpoints, SIDES, strict=False)]

    # ---- columns -----------------------------------------------------------------------------------------------------

    def _confidence(self, side: str) -> Floats:
        rows = self.run.sides[side].rows
        return np.array(
            [math.nan if row is None else row.get("confidence", math.nan) for row in rows], dtype=np.float32
        )

    def _fill_scores(self) -> None:
        for side in self.sides:
            self.score[side] = np.full(self.count, np.nan, dtype=np.float32)
            self.right[side] = np.full(self.count, UNSCORED, dtype=np.int8)
        for result in results_of(self.run):
            places = np.array([self.run.index[sample.id] for sample in result.samples], dtype=np.int64)
            for side in self.sides:
                scores = result.scores[side]
                self.main[result.task] = shown = "mean_iou" if result.task == "grounding" else scores.main
                values = scores.values[shown]
                self.score[side][places] = values
                self.right[side][places] = values >= metric_of(result.task, shown).right_at - 1e-9

    def _quadrants(self) -> NDArray[np.int8]:
        left = self.right[self.sides[0]]
        if len(self.sides) == 1:  # one model: right or wrong
            return np.where(left == UNSCORED, UNSCORED, np.where(left == 1, 0, 3)).astype(np.int8)
        right = self.right[self.sides[1]]
        known = (left != UNSCORED) & (right != UNSCORED)
        return np.where(known, (1 - left) * 2 + (1 - right), UNSCORED).astype(np.int8)

    def quadrant_counts(self, rows: Rows | None = None) -> dict[str, int]:
        """How many rows each quadrant has."""
        chosen = self.quadrant if rows is None else self.quadrant[rows]
        return {name: int((chosen == code).sum()) for code, name in enumerate(QUADRANTS)}

    def text(self, side: str, i: int) -> str:
        row = self.run.sides[side].rows[i]
        return "" if row is None else str(row.get("text") or "")

    # ---- choosing ----------------------------------------------------------------------------------------------------

    def select(self, wanted: Filter | None = None, within: Rows | None = None) -> Rows:
        """Numbers of the rows (of those `within`, where given) that pass a filter, in the samples' order.

        Raises RequestError for a bad pattern.
        """
        wanted = wanted or Filter()
        keep = np.full(self.count, within is None)
        keep[within if within is not None else slice(0)] = True
        if wanted.quadrants:
            keep &= np.isin(self.quadrant, [_quadrant_code(name) for name in wanted.quadrants])
        for name, value in wanted.aspects.items():
            keep &= self.aspect(name).rows_of(value, self.count)
        if wanted.min_confidence_gap is not None and len(self.sides) == 2:
            keep &= np.abs(self.confidence_gap()) >= wanted.min_confidence_gap
        rows = np.flatnonzero(keep)
        if wanted.samples is not None:
            rows = rows[[self.run.samples[i].id in wanted.samples for i in rows]] if len(rows) else rows
        if wanted.disagreeing and len(self.sides) == 2:
            a, b = self.sides
            differing = [i for i in rows.tolist() if self.text(a, i).strip() != self.text(b, i).strip()]
            rows = np.array(differing, dtype=np.int64)
        return self._searching(rows, wanted)

    def _searching(self, rows: Rows, wanted: Filter) -> Rows:
        if wanted.text:
            needle = wanted.text.lower()
            lines = self._lines()
            rows = np.array([i for i in rows if needle in lines[i]], dtype=np.int64)
        if wanted.pattern:
            matching = Search(wanted.pattern).matching(self._lines(), rows.tolist(), PATTERN_SECONDS)
            rows = np.array(matching, dtype=np.int64)
        return rows

    def _lines(self) -> list[str]:
        """What is searched in, in lower case: id, question, references, answers, SEARCHED characters of them."""
        if self._searched is None:
            self._searched = [
                "\n".join((s.id, s.text, *s.references[:3], *(self.text(side, i) for side in self.sides)))[
                    :SEARCHED
                ].lower()
                for i, s in enumerate(self.run.samples)
            ]
        return self._searched

    def aspect(self, name: str) -> Aspect:
        """A slice dimension. Raises RequestError for an unknown name."""
        if name not in self.aspects:
            raise RequestError(f"Unknown slice {name!r}; the slices are {', '.join(self.aspects)}.")
        return self.aspects[name]

    def confidence_gap(self) -> Floats:
        """Left minus right, of the mean log-probability of the answers' tokens; nan where a side has none."""
        a, b = self.sides[0], self.sides[-1]
        return self.confidence[a] - self.confidence[b]

    def sort(self, rows: Rows, by: str = "order", descending: bool = False) -> Rows:
        """The same rows in another order; what has no value comes last, and equals stay in the samples' order."""
        if by == "order":
            return rows[::-1] if descending else rows
        keys = self._sort_keys(by)[rows].astype(np.float64)
        order = np.argsort(-keys if descending else keys, kind="stable")  # nan sorts last either way
        return rows[order]

    def _sort_keys(self, by: str) -> NDArray[Any]:
        match by:
            case "score_left":
                return self.score[self.sides[0]]
            case "score_right":
                return self.score[self.sides[-1]]
            case "difference":
                return self.score[self.sides[0]] - self.score[self.sides[-1]]
            case "confidence_gap":
                return np.abs(self.confidence_gap())
        raise RequestError(f"Rows cannot be sorted by {by!r}; they can by {', '.join(SORTS)}.")

    def cells(self, i: int) -> dict[str, Any]:
        """What a table shows of one row. Texts are as the models wrote them: escape them before they meet a page."""
        sample, code = self.run.samples[i], int(self.quadrant[i])
        cells: dict[str, Any] = {
            "row": i,
            "id": sample.id,
            "task": sample.task,
            "question": sample.text,
            "reference": sample.references[0] if sample.references else "",
            "quadrant": QUADRANTS[code] if code != UNSCORED else "",
        }
        for name, side in zip(SIDES, self.sides, strict=False):
            score = float(self.score[side][i])
            cells[f"answer_{name}"] = self.text(side, i)
            cells[f"score_{name}"] = None if math.isnan(score) else round(score, 4)
        return cells


def _quadrant_code(name: str) -> int:
    if name not in QUADRANTS:
        raise RequestError(f"Unknown quadrant {name!r}; the quadrants are {', '.join(QUADRANTS)}.")
    return QUADRANTS.index(name)


def results_of(run: RunFolder) -> list[TaskResult]:
    """Every task's scores, from the slim rows."""
    ids = [sample.id for sample in run.samples]
    return evaluate(
        run.samples,
        {
            side: {key: row for key, row in zip(ids, rows.rows, strict=True) if row is not None}
            for side, rows in run.sides.items()
        },
    )


def summary_of(run: RunFolder) -> dict[str, Any]:
    """summary.json where it is there and about these rows, else computed now."""
    stored = run.stored_summary()
    if stored is not None:
        return stored
    return summarise(results_of(run), list(run.sides), checkpoints={side: run.checkpoint(side) for side in run.sides})
