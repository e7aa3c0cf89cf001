"""How often the 95 % intervals of the evaluation hold the true value, by simulation with seeds.

Rows are drawn in pictures: each picture has its own rate of right rows, beta-distributed about the true rate with the
given intraclass correlation. A right row has a high IoU, a true yes or no, or the reference itself as its caption; a
wrong one a low IoU, the other word, or another row's caption. The right side of a pair is the left one that loses a
share of the rows, picture by picture in the same way; "exchanged" pairs besides swap 5 % of the rows each way. Captions
come from a pool, and CIDEr-D takes its document frequencies from the pool. The functions that make the intervals are
those of every summary. `coverage.txt` beside this file is the whole table, as the command prints it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlcompare.errors import RequestError
from vlcompare.evaluate import intervals
from vlcompare.evaluate.intervals import CorpusFigure
from vlcompare.evaluate.metrics.answers import F1, f1_columns
from vlcompare.evaluate.metrics.captions import BLEU4, bleu_columns, cider_d
from vlcompare.evaluate.statistics import caution

NOMINAL, GOAL = 0.95, 0.93
EXCHANGED = 0.05  # of the rows, each way
POOL = 2000  # captions that are drawn from
FIGURES = ("fraction", "mean_iou", "f1", "bleu4", "cider_d")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CoverageOptions:
    """What to simulate. `shapes` are (rows a picture, intraclass correlation), `apart` the shares that a side loses."""

    figures: tuple[str, ...] = FIGURES
    rows: tuple[int, ...] = (30, 100, 300)
    shapes: tuple[tuple[int, float], ...] = ((1, 0.0), (5, 0.3), (5, 0.8))
    rates: tuple[float, ...] = (0.5, 0.8, 0.97, 0.99, 1.0)
    apart: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1)
    replicates: int = 1000
    seed: int = 2026


@dataclass(frozen=True, slots=True)
class CoverageCell:
    """One setting: the share of replicates whose interval holds the true value, and the mean width.

    `apart` is None for the interval of one side alone. `note` is what a summary says beside such an interval.
    """

    figure: str
    rows: int
    per_picture: int
    correlation: float
    rate: float
    apart: float | None
    exchanged: bool
    coverage: float
    width: float
    note: str


@dataclass(frozen=True, slots=True)
class CoverageReport:
    options: CoverageOptions
    cells: tuple[CoverageCell, ...]

    @property
    def floor(self) -> float:
        """The goal less two Monte Carlo standard errors."""
        return float(GOAL - 2 * np.sqrt(GOAL * (1 - GOAL) / self.options.replicates))

    @property
    def below(self) -> tuple[CoverageCell, ...]:
        """The cells that cover less often than that."""
        return tuple(cell for cell in self.cells if cell.coverage < self.floor)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "options": asdict(self.options),
            "floor": self.floor,
            "rows": [asdict(cell) for cell in self.cells],
        }


def run(options: CoverageOptions, *, progress: Callable[[str], None] = lambda sentence: None) -> CoverageReport:
    """Simulate every cell. Raises RequestError for options that cannot be simulated."""
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        raise RequestError(f"There is no figure {unknown.pop()!r}; there are {', '.join(FIGURES)}.")
    if options.replicates < 1:
        raise RequestError("The replicates must be at least 1.")
    cells: list[CoverageCell] = []
    for figure in options.figures:
        measure = _MEASURES[figure]()
        for rows in options.rows:
            progress(f"{figure}, {rows} rows")
            for shape in options.shapes:
                cells += _cells(options, measure, figure, rows, shape)
    return CoverageReport(options, tuple(cells))


def _cells(
    options: CoverageOptions, measure: _Measure, figure: str, rows: int, shape: tuple[int, float]
) -> Iterator[CoverageCell]:
    per_picture, correlation = shape
    codes = np.arange(rows) // per_picture
    pairs = [(apart, False) for apart in options.apart]
    if figure == "fraction":
        pairs += [(apart, True) for apart in options.apart]
    for rate in options.rates:
        for apart, exchanged in ((None, False), *pairs):
            if exchanged and rate + EXCHANGED > 1:
                continue
            # a separate seed for each cell, so that its result does not depend on the others
            name = f"{figure} {rows} {shape} {rate} {apart} {exchanged}"
            dice = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
            left = _rights(dice, options.replicates, codes, rate, correlation)
            if apart is None:
                found, true = measure.one(dice, left, codes), measure.true(rate)
            else:
                lost, right = apart / rate, left
                if exchanged:
                    won = _rights(dice, options.replicates, codes, EXCHANGED / (1 - rate), correlation)
                    right, lost = left | won, (apart + EXCHANGED) / (rate + EXCHANGED)
                right = right & ~_rights(dice, options.replicates, codes, lost, correlation)
                found = measure.pair(dice, left, right, codes)
                true = measure.true(rate) - measure.true(rate - apart)
            covers = (found[:, 0] <= true + 1e-9) & (found[:, 1] >= true - 1e-9)
            yield CoverageCell(
                figure, rows, per_picture, correlation, rate, apart, exchanged,
                float(covers.mean()), float((found[:, 1] - found[:, 0]).mean()), caution(codes),
            )  # fmt: skip


def _rights(
    dice: np.random.Generator, replicates: int, codes: NDArray[np.int64], rate: float, correlation: float
) -> Bools:
    """(replicates, n): which rows are right; the rows of a picture share a rate about `rate`."""
    if not 0 < rate < 1:
        return np.full((replicates, len(codes)), rate >= 1)
    rates: Floats | float = rate
    if correlation:
        spread = 1 / correlation - 1
        rates = dice.beta(rate * spread, (1 - rate) * spread, (replicates, int(codes[-1]) + 1))[:, codes]
    return dice.random((replicates, len(codes))) < rates


# ---- the figures -----------------------------------------------------------------------------------------------------


class _Measure(NamedTuple):
    """How a figure's intervals (replicates, 2) come from which rows are right, and what its true value is at a rate."""

    one: Callable[[np.random.Generator, Bools, NDArray[np.int64]], Floats]
    pair: Callable[[np.random.Generator, Bools, Bools, NDArray[np.int64]], Floats]
    true: Callable[[float], float]


def _of_values(
    draw: Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]],
    ends: tuple[float, float],
    fraction: bool,
) -> _Measure:
    """A mean of values. `draw` gives each row's value where it is right and where it is wrong, of the means `ends`."""

    def one(dice: np.random.Generator, right: Bools, codes: NDArray[np.int64]) -> Floats:
        good, bad = draw(dice, right.shape)
        return intervals.mean_intervals(np.where(right, good, bad), codes, fraction=fraction)

    def pair(dice: np.random.Generator, left: Bools, right: Bools, codes: NDArray[np.int64]) -> Floats:
        good, bad = draw(dice, left.shape)
        return intervals.paired_intervals(
            np.where(left, good, bad), np.where(right, good, bad), codes, fraction=fraction
        )

    return _Measure(one, pair, lambda rate: rate * ends[0] + (1 - rate) * ends[1])


def _of_columns(
    figure: CorpusFigure,
    draw: Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]],
    ends: tuple[Floats, Floats],
) -> _Measure:
    """A corpus figure. `draw` gives each row's columns where it is right and where it is wrong, of the means `ends`."""

    def one(dice: np.random.Generator, right: Bools, codes: NDArray[np.int64]) -> Floats:
        good, bad = draw(dice, right.shape)
        return intervals.corpus_intervals(figure, np.where(right[..., None], good, bad), codes)

    def pair(dice: np.random.Generator, left: Bools, right: Bools, codes: NDArray[np.int64]) -> Floats:
        good, bad = draw(dice, left.shape)
        ours, theirs = (np.where(side[..., None], good, bad) for side in (left, right))
        return intervals.corpus_paired_intervals(figure, ours, theirs, codes)

    return _Measure(one, pair, lambda rate: float(figure.of_sums(rate * ends[0] + (1 - rate) * ends[1])))


def _fraction() -> _Measure:
    return _of_values(lambda dice, shape: (np.ones(shape), np.zeros(shape)), (1.0, 0.0), True)


def _mean_iou() -> _Measure:
    """Right: IoU about .86; wrong: half of them 0, half about .14."""

    def draw(dice: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        bad = np.where(dice.random(shape) < 0.5, 0.0, dice.beta(1, 6, shape))
        return dice.beta(12, 2, shape), bad

    return _of_values(draw, (12 / 14, 0.5 / 7), True)


def _f1() -> _Measure:
    """Half of the rows are truly "yes"."""

    def draw(dice: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        truth = dice.random(shape) < 0.5
        return f1_columns(truth, truth), f1_columns(~truth, truth)

    return _of_columns(F1, draw, (np.array([0.5, 0.0, 0.0]), np.array([0.0, 0.5, 0.5])))


def _bleu4() -> _Measure:
    right, wrong, references = _captions()
    good, bad = bleu_columns(right, references), bleu_columns(wrong, references)
    return _of_columns(BLEU4, _from_pool(good, bad), (good.mean(axis=0), bad.mean(axis=0)))


def _cider_d() -> _Measure:
    right, wrong, references = _captions()
    good, bad = cider_d(right, references), cider_d(wrong, references)
    return _of_values(_from_pool(good, bad), (float(good.mean()), float(bad.mean())), False)


def _from_pool(good: Floats, bad: Floats) -> Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]]:
    def draw(dice: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        places = dice.integers(0, len(good), shape)
        return good[places], bad[places]

    return draw


def _captions() -> tuple[list[str], list[str], list[list[str]]]:
    """(right captions, wrong ones, references): a right one is its first reference, a wrong one another row's; the
    second reference has some of the first one's words. Words come by Zipf's law."""
    dice = np.random.default_rng(1)
    words = np.array([f"w{i}" for i in range(800)])
    shares = 1 / np.arange(1, len(words) + 1)
    lengths = dice.integers(7, 14, POOL)
    firsts = [list(dice.choice(words, length, p=shares / shares.sum())) for length in lengths]
    seconds = [
        [word if kept else str(other) for word, kept, other in zip(
            first, dice.random(len(first)) < 0.6, dice.choice(words, len(first)), strict=True
        )]
        for first in firsts
    ]  # fmt: skip
    right = [" ".join(first) for first in firsts]
    references = [[text, " ".join(second)] for text, second in zip(right, seconds, strict=True)]
    return right, [*right[1:], right[0]], references


_MEASURES: dict[str, Callable[[], _Measure]] = {
    "fraction": _fraction, "mean_iou": _mean_iou, "f1": _f1, "bleu4": _bleu4, "cider_d": _cider_d,
}  # fmt: skip


# ---- the report ------------------------------------------------------------------------------------------------------


def table(report: CoverageReport) -> str:
    """One line a figure, size, shape and distance; coverage and mean width of the interval at each rate."""
    options = report.options
    lines = [
        f"Coverage of the nominal {NOMINAL:.0%} intervals and, behind it, their mean width; {options.replicates} "
        f"replicates a cell, seed {options.seed} (each cell has its own seed of it and of its name).",
        f"Goal {GOAL}, less two Monte Carlo standard errors: {report.floor:.3f}; below it a cell is marked !.",
        "rows / picture: several rows of a picture are correlated as much as stands behind them.",
        "one side: the figure's own interval; else that of the paired difference, by how much one side loses.",
        "",
        f"{'figure':<10}{'rows':>5}{'/ picture':>11}  {'':<21}"
        + "".join(f"{f'at {rate:g}':>15}" for rate in options.rates),
    ]
    for cells in _lines(report):
        first = cells[0]
        by_rate = {cell.rate: cell for cell in cells}
        shape = f"{first.per_picture}" + (f" ({first.correlation:g})" if first.per_picture > 1 else "")
        shown = [_shown(by_rate.get(rate), report.floor) for rate in options.rates]
        lines.append(f"{first.figure:<10}{first.rows:>5}{shape:>11}  {_kind(first):<21}" + "".join(shown))
    lines += ["", _exceptions(report)]
    for note in dict.fromkeys(cell.note for cell in report.cells if cell.note):
        sizes = sorted({(cell.rows, cell.per_picture) for cell in report.cells if cell.note == note})
        about = "; ".join(f"{rows} rows at {per_picture} a picture" for rows, per_picture in sizes)
        lines.append(f'{about}: marked in summaries with "{note}".')
    return "\n".join(line.rstrip() for line in lines)


def _lines(report: CoverageReport) -> list[list[CoverageCell]]:
    lines: dict[tuple[Any, ...], list[CoverageCell]] = {}
    for cell in report.cells:
        key = (cell.figure, cell.rows, cell.per_picture, cell.correlation, cell.apart, cell.exchanged)
        lines.setdefault(key, []).append(cell)
    return list(lines.values())


def _kind(cell: CoverageCell) -> str:
    if cell.apart is None:
        return "one side"
    return ("equal" if not cell.apart else f"{cell.apart:.0%} apart") + (", exchanged" if cell.exchanged else "")


def _shown(cell: CoverageCell | None, floor: float) -> str:
    if cell is None:
        return f"{'':>15}"
    return f"{cell.coverage:>8.3f}{'!' if cell.coverage < floor else ' '}{cell.width:>5.3f} "


def _exceptions(report: CoverageReport) -> str:
    least = min(report.cells, key=lambda cell: cell.coverage)
    count = len(report.below)
    return (
        f"{len(report.cells)} cells, {count or 'none'} below the goal; the least coverage is {least.coverage:.3f} "
        f"({least.figure}, {least.rows} rows, {least.per_picture} a picture, {_kind(least)}, at {least.rate:g})."
    )
