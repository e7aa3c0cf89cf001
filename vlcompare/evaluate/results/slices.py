"""Figures by slice: each value's accuracy on both sides, and the paired difference with its interval.

On a slice of several tasks a row counts as right or wrong (each by its own task's main metric); on one task the
metric's own values can be averaged instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vlcompare.evaluate import statistics
from vlcompare.evaluate.results.table import UNSCORED, Rows, RunTable
from vlcompare.evaluate.scoring import metric_of
from vlcompare.evaluate.statistics import Floats, Interval, Paired


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One value of one aspect. `left` and `right` are means; `paired` is None where there is one side."""

    aspect: str
    value: str
    n: int
    n_images: int
    left: float
    left_ci95: Interval
    right: float | None = None
    right_ci95: Interval | None = None
    paired: Paired | None = None


@dataclass(frozen=True, slots=True)
class ShareRow:
    """One value of one aspect: how many of its `n` rows are in a selection."""

    aspect: str
    value: str
    n: int
    n_images: int
    count: int
    share: float
    ci95: Interval


def slice_figures(table: RunTable, aspect: str, rows: Rows | None = None, *, scores: bool = False) -> list[SliceRow]:
    """Figures of every value of an aspect among `rows` (all, by default).

    `scores`: means of the main metric's values (IoU, ANLS, ..) in place of shares of rows that are right.
    """
    chosen = scored(table, rows)
    dimension = table.aspect(aspect)
    codes = dimension.codes[chosen]
    return [
        row_figures(table, aspect, value, chosen[codes == code], scores=scores)
        for code, value in enumerate(dimension.values)
        if (codes == code).any()
    ]


def share_figures(table: RunTable, aspect: str, within: Rows, chosen: Rows) -> list[ShareRow]:
    """Of each value's rows among `within`: how many are among `chosen` (one quadrant, say), with its interval.

    This is what can be said of a selection by what was answered: within it, shares that are right are so by
    construction.
    """
    within = scored(table, within)
    inside = np.isin(within, chosen).astype(np.float64)
    dimension = table.aspect(aspect)
    codes, rows = dimension.codes[within], []
    for code, value in enumerate(dimension.values):
        mine = codes == code
        if mine.any():
            clusters = table.clusters[within[mine]]
            interval = statistics.mean_interval(inside[mine], clusters)
            share, count = float(inside[mine].mean()), int(inside[mine].sum())
            rows.append(ShareRow(aspect, value, int(mine.sum()), len(np.unique(clusters)), count, share, interval))
    return rows


def overall(table: RunTable, rows: Rows | None = None, *, scores: bool = False) -> SliceRow | None:
    """The same over all the rows; None where none of them is scored."""
    chosen = scored(table, rows)
    return row_figures(table, "all", "all", chosen, scores=scores) if len(chosen) else None


_METRICS = {"mean_iou": "IoU", "cider_d": "CIDEr-D", "anls": "ANLS"}  # where a metric's field is not its name


def criterion(table: RunTable, rows: Rows) -> str:
    """What makes a row right, in words: the measure of the rows' one task, or each task's own."""
    tasks = {table.task[i] for i in rows.tolist()}
    if len(tasks) != 1:
        return "each by its task's own measure"
    (task,) = tasks
    metric = table.main[task]
    return f"{_METRICS.get(metric, metric.replace('_', ' '))} of at least {metric_of(task, metric).right_at:g}"


def scored(table: RunTable, rows: Rows | None) -> Rows:
    """Those of `rows` (all, by default) that have a right answer to be compared with."""
    chosen = np.arange(table.count) if rows is None else rows
    return chosen[table.right[table.sides[0]][chosen] != UNSCORED]


def row_figures(table: RunTable, aspect: str, value: str, rows: Rows, *, scores: bool = False) -> SliceRow:
    """The figures of one set of scored rows, under the name of an aspect's value."""
    clusters = table.clusters[rows]
    columns = [
        (table.score[side][rows] if scores else table.right[side][rows]).astype(np.float64) for side in table.sides
    ]
    # CIDEr-D is not a fraction: where it is among the scores the plain interval is taken
    metrics = {metric_of(task, table.main[task]) for task in {table.task[i] for i in rows}} if scores else set()
    fraction = all(metric.fraction for metric in metrics)
    means = [
        (float(column.mean()), statistics.mean_interval(column, clusters, fraction=fraction)) for column in columns
    ]
    row = SliceRow(aspect, value, len(rows), len(np.unique(clusters)), *means[0])
    if len(columns) == 1:
        return row
    (right, right_ci95), paired = means[1], _paired(table, rows, columns[0], columns[1], fraction)
    return replace(row, right=right, right_ci95=right_ci95, paired=paired)


def _paired(table: RunTable, rows: Rows, left: Floats, right: Floats, fraction: bool) -> Paired:
    """The difference of the columns; the quadrants are counted by each task's own measure, be they scores or not."""
    pair = statistics.paired(left, right, table.clusters[rows], fraction=fraction)
    a, b = (table.right[side][rows].astype(np.float64) for side in table.sides)
    both, only_left, only_right, neither = statistics.quadrants(a, b)
    return replace(pair, both=both, only_left=only_left, only_right=only_right, neither=neither)
