"""The study's figures as values, from groups of rows: panels to draw, records behind them, and what each one shows.

`study report` writes them as files, the page's Study tab draws the same panels. Nothing is drawn that was not trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from vlcompare.render.charts import ticks as round_values
from vlcompare.render.panels import Panel, Point, Series, Strip
from vlcompare.study.tables import (
    TABLES,
    TRAINING,
    Group,
    Row,
    accuracy_at,
    extrapolation,
    of_several_state_sizes,
    spread,
)
from vlcompare.units import short_count

NAMES = {"pythia": "Transformer", "mamba": "Mamba", "hybrid": "Hybrid"}
ORDER_NAMES = {"query_first": "query first", "query_last": "query last", None: ""}
MAX_CELLS = 60  # of a strip; more places are drawn by their means
MAX_POINTS = 60  # of a curve
SHARES = {share: f"{share:g}" for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
_EARLY = 0.25  # of the budget: where accuracies are compared at equal examples
TASK_NAMES = {
    "position": "Position",
    "mqar": "MQAR",
    "ngram_suffix": "What follows an n-gram",
    "ngram_prefix": "What precedes an n-gram",
}
TASK_WORDS = {
    "position": "position retrieval",
    "mqar": "MQAR",
    "ngram_suffix": "what follows an n-gram",
    "ngram_prefix": "what precedes an n-gram",
}
_HOW = {"recipe": "recipe {}", "width": "width {:,}", "budget": "at most {:,} examples", "vocabulary": "{:,} symbols"}
_BY_TASK = ("task", "order", "length")


@dataclass(frozen=True)
class Figure:
    """One figure: its panels, the table behind it, and a sentence that says how it is read."""

    name: str
    title: str
    reads: str
    panels: tuple[Panel, ...]
    records: tuple[Row, ...]
    groups: tuple[Group, ...]  # whose rows are behind it
    says: tuple[str, ...] = ()  # what it shows, in sentences made from the records


def all_figures(groups: Sequence[Group]) -> list[Figure]:
    """Every figure that there are rows for."""
    groups = sorted(groups, key=lambda group: list(NAMES).index(group.key["family"]))
    usual = [group for group in groups if group.key["state_size"] in (None, 16)]
    position = [group for group in usual if group.key["task"] == "position"]
    several = of_several_state_sizes(groups)
    made = [
        _figure("examples_to_95", "Examples needed until .95", position,
                _apart(position, lambda part: _by_length(part, _until_enough, _counts)),
                "Examples that a training saw before .95 of held-out items were right: fewer is better. Hollow: the "
                "median training used up its budget before."),
        _figure("accuracy_at_equal_examples", "Accuracy after a quarter of the budget", position,
                _apart(position, lambda part: _by_length(part, _early, lambda _: SHARES)),
                "A training that stopped at .95 before keeps its last accuracy."),
        _figure("accuracy_by_position", "Accuracy by position", position, _apart(position, _heat),
                "The fuller the colour, the more often the answer is right there; positions count from 1."),
        _figure("query_first_against_last", "Query first against query last", position, _apart(position, _orders),
                "Examples needed until .95 with the query behind the sequence, and before it."),
        _figure("state_size", "Mamba by the size of its state", several, _apart(several, _states),
                "Accuracy after half of the budget; every mark is one training."),
        _figure("extrapolation", "Longer than trained", position, _apart(position, _longer),
                "Accuracy at lengths that were never trained. Asked for are the positions that the models have a token "
                "for, those of the trained length. Dashed: guessing one of them."),
        _figure("curves", "While training", usual, _apart(usual, _curves),
                "Accuracy of every training at its setting's best rate. Dashed: guessing."),
    ]  # fmt: skip
    return [figure for figure in made if figure.panels]


def _figure(name: str, title: str, groups: Sequence[Group], panels: Iterable[Panel], reads: str) -> Figure:
    records = TABLES[name](groups)
    return Figure(name, title, reads, tuple(filter(_holds_something, panels)), tuple(records), tuple(groups))


def _holds_something(panel: Panel) -> bool:
    """Whether a panel has a value: trainings on a small budget may be measured too late for some."""
    cells = (value for strip in panel.strips for value, _ in strip.cells)
    return any(series.points for series in panel.series) or any(value is not None for value in cells)


def share_text(value: float | None) -> str:
    """.95, 1.00, or a dash."""
    return "–" if value is None else f"{value:.2f}".removeprefix("0")


def seeds_text(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _words(group: Group, what: str) -> str:
    order = ORDER_NAMES[group.key["order"]]
    setting = ", ".join(part for part in (f"length {group.key['length']}", order, seeds_text(len(group.rows))) if part)
    return f"{NAMES[group.key['family']]}: {what} ({setting})"


# ---- what may be drawn together --------------------------------------------------------------------------------------


def _apart(groups: Sequence[Group], panels: Callable[[Sequence[Group]], list[Panel]]) -> list[Panel]:
    """The panels of groups, apart for those that must not be set beside each other, with what tells these apart."""
    return [
        replace(panel, title=f"{panel.title} · {words}") if words else panel
        for words, part in _comparable(groups)
        for panel in panels(part)
    ]


def _comparable(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Parts in which all that was trained of one task, order and length was trained alike, each with its own words.

    The parts differ in as few fields of `TRAINING` as possible: mostly there is one, without words.
    """
    for names in (names for size in range(len(TRAINING) + 1) for names in combinations(TRAINING, size)):
        parts: dict[tuple[Any, ...], list[Group]] = {}
        for group in groups:
            parts.setdefault(tuple(group.key[name] for name in names), []).append(group)
        if all(map(_trained_alike, parts.values())):
            break
    return [(training_text(dict(zip(names, values, strict=True))), part) for values, part in parts.items()]


def training_text(fields: Mapping[str, Any]) -> str:
    """Fields of `TRAINING` in words."""
    return ", ".join(_HOW[name].format(value) for name, value in fields.items())


def _trained_alike(groups: Sequence[Group]) -> bool:
    ways: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    return all(
        ways.setdefault(tuple(group.key[name] for name in _BY_TASK), group.training) == group.training
        for group in groups
    )


# ---- by length -------------------------------------------------------------------------------------------------------


def _by_length(
    groups: Sequence[Group], point: Callable[[Group, float], Point | None], y_ticks: Callable[[Sequence[Group]], dict]
) -> list[Panel]:
    """A panel for each order; lengths stand side by side, whatever lies between them."""
    lengths = sorted({group.key["length"] for group in groups})
    places = {length: float(index) for index, length in enumerate(lengths)}
    panels = []
    for order in ("query_last", "query_first"):
        members = [group for group in groups if group.key["order"] == order]
        if members:
            series = _series(members, lambda group: point(group, places[group.key["length"]]))
            ticks = {place: str(length) for length, place in places.items()}
            panels.append(Panel(ORDER_NAMES[order].capitalize(), "length", room(ticks), y_ticks(groups), series))
    return panels


def room(ticks: dict[float, str]) -> dict[float, str]:
    """The ticks of an axis, with half a step of room at either end."""
    return {min(ticks) - 0.5: "", **ticks, max(ticks) + 0.5: ""}


def _series(groups: Sequence[Group], point: Callable[[Group], Point | None]) -> tuple[Series, ...]:
    out = []
    for family in NAMES:
        points = [point(group) for group in groups if group.key["family"] == family]
        known = tuple(one for one in points if one is not None)
        if known:
            out.append(Series(family, known))
    return tuple(out)


def _until_enough(group: Group, x: float) -> Point:
    budget = group.key["budget"]
    middle, low, high = spread(row["reached"] for row in group.rows)
    if middle is None:
        reached = sum(row["reached"] is not None for row in group.rows)
        words = f"not reached in {budget:,} examples" + (f", {reached} of {len(group.rows)} reached" if reached else "")
        return Point(x, math.log10(budget), _words(group, words), hollow=True)
    words = f"{middle:,.0f} examples" + ("" if low == high else f", from {low:,.0f} to {_most(high)}")
    low, high = (math.log10(value or budget) for value in (low, high))
    return Point(x, math.log10(middle), _words(group, words), low, high)


def _most(high: float | None) -> str:
    return "not reached" if high is None else f"{high:,.0f}"


def _counts(groups: Sequence[Group]) -> dict[float, str]:
    """Ticks of a logarithmic axis of examples, which hold all budgets."""
    most = max(group.key["budget"] for group in groups)
    least = min((row["reached"] or most for group in groups for row in group.rows), default=most)
    ticks: dict[float, str] = {}
    for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1):
        for factor in (1, 2, 5):
            value = factor * 10**power
            if least / 2.5 < value < most * 2.5:
                ticks[math.log10(value)] = short_count(value)
    return ticks


def _early(group: Group, x: float) -> Point | None:
    at = group.key["budget"] * _EARLY
    middle, low, high = spread(accuracy_at(row, at) for row in group.rows)
    if middle is None:
        return None
    words = f"{share_text(middle)} after {at:,.0f} examples"
    return Point(x, middle, _words(group, words), low, middle if high is None else high)


# ---- the others ------------------------------------------------------------------------------------------------------


def _heat(groups: Sequence[Group]) -> list[Panel]:
    panels = []
    for length in sorted({group.key["length"] for group in groups}):
        strips = []
        members = [group for group in groups if group.key["length"] == length]
        for order in ("query_last", "query_first"):
            for group in (group for group in members if group.key["order"] == order):
                label = f"{NAMES[group.key['family']]}, {ORDER_NAMES[order]}"
                strips.append(Strip(group.key["family"], label, _cells(group, length)))
        ticks = {0.0: "1", 1.0: str(length)}
        panels.append(Panel(f"Length {length}", "position asked for", ticks, strips=tuple(strips)))
    return panels


def _cells(group: Group, length: int) -> tuple[tuple[float | None, str], ...]:
    """The median over seeds at each position, or the mean of these over several."""
    medians = [spread((row["by_position"] or [None] * length)[place] for row in group.rows)[0]
               for place in range(length)]  # fmt: skip
    each, cells = -(-length // MAX_CELLS), []
    for start in range(0, length, each):
        known = [value for value in medians[start : start + each] if value is not None]
        value = sum(known) / len(known) if known else None
        end = min(length, start + each) - 1
        where = f"position {start + 1}" if start == end else f"positions {start + 1} to {end + 1}"
        cells.append((value, _words(group, f"{share_text(value)} at {where}")))
    return tuple(cells)


def _orders(groups: Sequence[Group]) -> list[Panel]:
    panels = []
    places = {"query_last": 0.0, "query_first": 1.0}
    for length in sorted({group.key["length"] for group in groups}):
        members = [group for group in groups if group.key["length"] == length]
        if {group.key["order"] for group in members} == set(places):
            series = _series(members, lambda group: _until_enough(group, places[group.key["order"]]))
            ticks = room({place: ORDER_NAMES[order] for order, place in places.items()})
            panels.append(Panel(f"Length {length}", "", ticks, _counts(members), series))
    return panels


def _states(groups: Sequence[Group]) -> list[Panel]:
    panels = []
    for title, members in _by_task(groups):
        points = []
        for group in members:
            at = group.key["budget"] / 2
            for row in group.rows:
                value = accuracy_at(row, at)
                if value is not None:
                    words = f"{group.key['state_size']} states a channel, {share_text(value)} after {at:,.0f} examples"
                    points.append(Point(math.log2(group.key["state_size"]), value, _words(group, words)))
        ticks = {math.log2(size): str(size) for size in sorted({group.key["state_size"] for group in members})}
        panels.append(
            Panel(title, "states a channel", room(ticks), SHARES, (Series("mamba", tuple(points), joined=False),))
        )
    return panels


def _by_task(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """The groups of each task, order and length, with a title: position retrieval first."""
    found: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        found.setdefault(tuple(group.key[name] for name in _BY_TASK), []).append(group)
    keys = sorted(found, key=lambda key: (list(TASK_NAMES).index(key[0]), key[2], key[1] != "query_last"))
    return [(task_text(*key), found[key]) for key in keys]


def task_text(task: str, order: str | None, length: int) -> str:
    """Position, length 10, query last."""
    return ", ".join(part for part in (TASK_NAMES[task], f"length {length}", ORDER_NAMES[order]) if part)


def _longer(groups: Sequence[Group]) -> list[Panel]:
    keys = {(g.key["order"], g.key["length"]) for g in groups if g.rows[0]["extrapolation"]}
    panels = []
    for order, length in sorted(keys, key=lambda key: (key[1], key[0] != "query_last")):
        series, lengths = [], set()
        for group in groups:
            if (group.key["order"], group.key["length"]) != (order, length):
                continue
            points = []
            for record in extrapolation([group]):
                tested, middle = record["tested_length"], record["median"]
                lengths.add(tested)
                if middle is not None:
                    words = f"{share_text(middle)} at length {tested}"
                    points.append(Point(math.log2(tested), middle, _words(group, words), record["least"],
                                        record["most"]))  # fmt: skip
            series.append(Series(group.key["family"], tuple(points)))
        ticks = room({math.log2(tested): str(tested) for tested in sorted(lengths)})
        title = f"Trained at length {length}, {ORDER_NAMES[order]}"
        panels.append(Panel(title, "tested length", ticks, SHARES, tuple(series), chance=1 / length))
    return panels


def _curves(groups: Sequence[Group]) -> list[Panel]:
    panels = []
    for title, members in _by_task(groups):
        lines = [_curve(group, row) for group in members for row in group.rows if row["curve"]]
        end = max((line.points[-1].x for line in lines), default=1.0)
        ticks = {value: f"{value / 1000:,g}" for value in round_values(0.0, end, 5)}
        panels.append(Panel(title, "thousand examples", ticks, SHARES, tuple(lines), chance=members[0].chance))
    return panels


def _curve(group: Group, row: Row) -> Series:
    step = -(-len(row["curve"]) // MAX_POINTS)
    kept = [*row["curve"][:-1][::step], row["curve"][-1]]
    words = f"{share_text(row['curve'][-1][1])} after {row['curve'][-1][0]:,} examples, seed {row['seed']}"
    points = tuple(Point(float(count), accuracy, _words(group, words)) for count, accuracy in kept)
    return Series(group.key["family"], points, marked=False)
