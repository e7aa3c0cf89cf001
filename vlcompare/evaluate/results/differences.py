"""Where two sides differ most: every value of every slice dimension, ranked by the paired difference.

A row counts as right or wrong by its own task's measure. Each difference is tested over pictures, and the tests are
corrected for their number, see `evaluate.paired_tests`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlcompare.evaluate.paired_tests import corrected_p
from vlcompare.evaluate.results.aspects import Aspect
from vlcompare.evaluate.results.slices import SliceRow, row_figures, scored
from vlcompare.evaluate.results.table import Rows, RunTable

_Slice = tuple[Aspect, str, NDArray[np.int64]]  # a dimension, one of its values, and where its rows are
LEAST_ROWS = 10  # of a value that is ranked
LEVEL = 0.05  # corrected p below this: the difference is clear of chance
METHOD = (
    f"Every slice of at least {LEAST_ROWS} samples is tested by exchanging the two sides' answers picture by picture, "
    "and all tests are corrected together (step-down maxT of Westfall and Young), so that with 95 % probability none "
    "that is called clear is a chance find. A clear one's own interval, which is uncorrected, leaves out 0 as well. Of "
    "two slices that hold the same samples, or go by the same word and lie one within the other, one is tested."
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One value of one aspect: its rows, left - right of the shares that are right, and the corrected p."""

    aspect: str
    title: str  # of the aspect
    value: str
    value_title: str
    rows: Rows
    difference: float
    p: float
    clear: bool  # of chance, among all that were tested, and by its own interval

    @property
    def label(self) -> str:
        """The slice as a person reads it: "Task: Locate"."""
        return f"{self.title}: {self.value_title}"

    def figures(self, table: RunTable) -> SliceRow:
        """Both sides' shares and the paired difference, with intervals."""
        return row_figures(table, self.aspect, self.value, self.rows)


def largest_differences(table: RunTable, rows: Rows | None = None, *, least: int = LEAST_ROWS) -> list[Difference]:
    """All values of at least `least` rows among `rows` (all, by default): those clear of chance first, each group by
    the size of its difference.

    Left out are what the answers are like, tags that are nearly unique to a row, slices of the very rows of an earlier
    one, those that lie within another one of the same word (see `_without_echoes`), and a slice that holds all rows.
    Empty where there is one side.
    """
    if len(table.sides) < 2:
        return []
    chosen = scored(table, rows)
    left, right = (table.right[side][chosen].astype(np.int64) for side in table.sides)
    change = left - right
    slices = _slices(table, chosen, least)
    p = corrected_p(_sums(change, table.clusters[chosen], [places for _, _, places in slices]))
    found = [
        Difference(
            aspect.name,
            aspect.title,
            value,
            aspect.value_title(value),
            chosen[places],
            float(change[places].mean()),
            chance,
            chance < LEVEL and _leaves_zero_out(row_figures(table, aspect.name, value, chosen[places])),
        )
        for (aspect, value, places), chance in zip(slices, p.tolist(), strict=True)
    ]
    return sorted(found, key=lambda one: (not one.clear, -abs(one.difference), one.p, -len(one.rows)))


def _leaves_zero_out(row: SliceRow) -> bool:
    return row.paired is not None and (row.paired.ci95.low > 0 or row.paired.ci95.high < 0)


def _slices(table: RunTable, chosen: Rows, least: int) -> list[_Slice]:
    """(aspect, value, its places in `chosen`) of what is ranked."""
    seen = {np.arange(len(chosen)).tobytes()}
    slices: list[_Slice] = []
    for aspect in table.aspects.values():
        if aspect.of_answers or aspect.near_unique(least):
            continue
        codes = aspect.codes[chosen]
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(aspect.values) + 1))
        for value, start, stop in zip(aspect.values, starts, starts[1:], strict=False):
            places = order[start:stop]
            if stop - start >= least and (key := places.tobytes()) not in seen:
                seen.add(key)
                slices.append((aspect, value, places))
    return _without_echoes(slices)


def _without_echoes(slices: list[_Slice]) -> list[_Slice]:
    """Without slices that say the same again: of one word in two dimensions ("Question type: closest" and "Family:
    closest") the one that lies within the other goes, where it holds most of its rows."""
    by_word: dict[str, list[_Slice]] = {}
    for one in slices:
        by_word.setdefault(one[1].casefold(), []).append(one)

    def echo(one: _Slice) -> bool:
        for other in by_word[one[1].casefold()]:
            within = len(one[2]) < len(other[2]) < 2 * len(one[2])
            if within and np.isin(one[2], other[2], assume_unique=True).all():
                return True
        return False

    return [one for one in slices if not echo(one)]


def _sums(
    change: NDArray[np.int64], clusters: NDArray[np.int64], slices: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """(slices, pictures that differ anywhere): the change summed over the rows of a slice in a picture."""
    differing = np.unique(clusters[change != 0])
    sums = np.zeros((len(slices), len(differing)))
    for row, places in enumerate(slices):
        changed = places[change[places] != 0]
        pictures = np.searchsorted(differing, clusters[changed])
        sums[row] = np.bincount(pictures, weights=change[changed], minlength=len(differing))
    return sums
