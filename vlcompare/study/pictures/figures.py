"""The comparisons on pictures as figures, from rows alone: a panel for each task, the gap in words and in tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from vlcompare.render.panels import Panel, Point, Series
from vlcompare.study.figures import NAMES, SHARES, Figure, room, seeds_text, share_text
from vlcompare.study.pictures.gaps import Record, compared, comparison_records
from vlcompare.study.pictures.grids import COMPARISONS, SEEDS, Comparison
from vlcompare.study.pictures.settings import RECIPES
from vlcompare.tasks.prompts import task_title
from vlcompare.types import FAMILIES
from vlcompare.units import fraction, fraction_interval, listed

LABELS = {
    "image_first": "image first",
    "template_first": "template first",
    "query_first": "query first",
    "image_twice": "image twice",
    "query_around": "query around",
    0: "no distractors",
    1: "one image's worth",
    3: "three images' worth",
    # without a comma, as they are listed; the axis says what the arrow is
    "160, finetuned": "160 finetuned",
    "160, extrapolated": "160 extrapolated",
    "balanced, tested balanced": "balanced → balanced",
    "balanced, tested natural": "balanced → natural",
    "natural, tested natural": "natural → natural",
    "natural, tested balanced": "natural → balanced",
}
SHORT = {  # where there is little room
    "160, extrapolated": "160 extrapol.",
    "balanced, tested balanced": "bal. → bal.",
    "balanced, tested natural": "bal. → nat.",
    "natural, tested natural": "nat. → nat.",
    "natural, tested balanced": "nat. → bal.",
    0: "0",
    1: "1",
    3: "3",
}


def picture_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """A figure for each comparison of which at least two values have rows of both families."""
    made = []
    for name, comparison, records in compared(rows):
        title = comparison.title if name == comparison.name else f"{comparison.title}, {records[0]['recipe']}"
        words = reads(records, comparison)
        panels, said = tuple(_panels(records, comparison)), (*says(records), *beside_claims(records, comparison))
        made.append(Figure(name, title, words, panels, tuple(records), (), said))
    return made


def reads(records: Sequence[Record], comparison: Comparison) -> str:
    """How a figure is read, what has to be known, and whether it is finished."""
    words = [
        shares_read(records),
        comparison.note.format(finetuned=f"{RECIPES[records[0]['recipe']].encoder.steps:,}"),
        _sizes(records),
    ]
    if missing := [label(value) for value in comparison.values if value not in {one["value"] for one in records}]:
        words.append(f"Unfinished: no rows of both families yet at {' and '.join(missing)}.")
    if not all(record["complete"] for record in records):
        words.append(f"Unfinished: fewer than {len(SEEDS)} seeds at some values, so this is no finding yet.")
    return " ".join(filter(None, words))


def shares_read(records: Sequence[Record]) -> str:
    """How shares, bars and floors are read: the same words for all whole comparisons of one recipe."""
    over = seeds_text(len(SEEDS)) if all(record["complete"] for record in records) else "the seeds that are there"
    return (
        f"Share of held-out questions answered right after {records[0]['questions_trained']:,} questions of training, "
        f"the mean over {over}; bars are 95 % intervals over pictures, not over trainings. Dashed: "
        "the floor, the most frequent answer in training to questions alike, given without looking."
    )


def _sizes(records: Sequence[Record]) -> str:
    """The models' parameters, where these are what is compared; else ""."""
    sizes = {one["value"]: [one[f"{family}_parameters"] for family in FAMILIES] for one in records}
    if len({tuple(pair) for pair in sizes.values()}) < 2:
        return ""
    each = (f"{label(value)} {' and '.join(f'{count:,}' for count in pair)}" for value, pair in sizes.items())
    return f"Parameters, {' and '.join(NAMES[family] for family in FAMILIES)}: {', '.join(each)}."


def says(records: Sequence[Record]) -> Iterator[str]:
    """A sentence for each task: at which values one family is ahead, and where no difference is shown."""
    whole = [record for record in records if record["type"] == "all"]
    for task in dict.fromkeys(record["task"] for record in whole):
        mine = [record for record in whole if record["task"] == task]
        parts = []
        for ahead, words in AHEAD.items():
            gaps = [f"{label(one['value'])} {gap_text(one)}" for one in mine if who_is_ahead(one) == ahead]
            if gaps:
                parts.append(f"{words}: {', '.join(gaps)}")
        yield f"{task_title(task)} ({mine[0]['group']}), Transformer minus Mamba. {'. '.join(parts)}."


def beside_claims(records: Sequence[Record], comparison: Comparison) -> Iterator[str]:
    """What is claimed of a comparison, and beside it what is seen here in locating things.

    A gap that grows takes all seeds of all values; help takes all seeds of the first value and of another.
    """
    mine = [one for one in records if (one["task"], one["type"]) == ("grounding", "all")]
    whole = [one for one in mine if one["complete"]]
    if comparison.widens and len(mine) == len(whole) == len(comparison.values):
        grows = all(one["gap"] < other["gap"] for one, other in pairwise(mine)) and _clearly_below(mine[0], mine[-1])
        grows = grows and max(_by_seed(mine[0])) < min(_by_seed(mine[-1]))
        seen = "here it does, too" if grows else f"here no such widening is shown{_untested(mine)}"
        yield f"{comparison.widens}; {seen}."
    first = next(iter(comparison.values))
    if comparison.expects and len(whole) > 1 and whole[0]["value"] == first:
        shares = [
            f"{NAMES[family]} {', '.join(label(one['value']) + ' ' + share_text(one[family]) for one in whole)}"
            for family in FAMILIES
        ]
        yield f"{comparison.expects}; here, of the things located: {'; '.join(shares)}."


def _untested(records: Sequence[Record]) -> str:
    """That a family is right less often with more parameters: its gap at that size is one of how fast it learns.

    By two decimals, as the shares are printed.
    """
    best = {family: max(round(one[family], 2) for one in records) for family in FAMILIES}
    less = [f"the largest {NAMES[family]}" for family in FAMILIES if best[family] > round(records[-1][family], 2)]
    are = "is" if len(less) == 1 else "are"
    why = f"{are} right less often than a smaller one: trained too briefly to test it"
    return f" ({listed(less)} {why})" if less else ""


def _clearly_below(one: Record, other: Record) -> bool:
    """Whether the intervals of two gaps do not overlap."""
    high, low = one["gap_high"], other["gap_low"]
    return high is not None and low is not None and high < low


AHEAD = {1: "The Transformer is ahead", -1: "Mamba is ahead", 0: "No difference is shown"}


def who_is_ahead(record: Record) -> int:
    """1 where the gap's interval lies above 0, -1 below, else 0; also 0 where the trainings' seeds disagree.

    The interval is over pictures: it tells nothing of how another training would have gone.
    """
    low, high = record["gap_low"], record["gap_high"]
    each = _by_seed(record)
    if low is None or high is None or min(each) < 0 < max(each):
        return 0
    return int(low > 0) - int(high < 0)


def _by_seed(record: Record) -> list[float]:
    return [float(gap) for gap in record["gap_by_seed"].split()]


def gap_text(record: Record) -> str:
    """A gap with its interval, as the tables have it: "+.218 [.187, .248]"."""
    low, high = record["gap_low"], record["gap_high"]
    gap = fraction(record["gap"], signed=True)
    return gap if low is None or high is None else f"{gap} {fraction_interval(low, high)}"


def baseline_says(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the baseline's rows alone show, a sentence a task; none before both families of a seed are there.

    Of several recipes the first is told that has such rows.
    """
    recipes = dict.fromkeys(row["recipe"] for row in rows)
    each = (list(comparison_records(rows, COMPARISONS[0], recipe)) for recipe in recipes)
    found = next(filter(None, each), [])
    own = next(iter(COMPARISONS[0].values))
    return [
        f"{task_title(one['task'])} ({one['group']}): "
        + ", ".join(f"{NAMES[family]} {share_text(one[family])}" for family in FAMILIES)
        + f", floor {share_text(one['floor'])}; Transformer minus Mamba {gap_text(one)}, {seeds_text(one['seeds'])}."
        for one in found
        if (one["value"], one["type"]) == (own, "all")
    ]


def in_short(study_figures: Sequence[Figure], rows: Sequence[Mapping[str, Any]]) -> str:
    """The first comparison's gaps in locating things, for a paragraph, or the baseline's; "" where there are none."""
    for figure in study_figures:
        located = [one for one in figure.records if (one["task"], one["type"]) == ("grounding", "all")]
        if located:
            gaps = ", ".join(f"{label(one['value'])} {gap_text(one)}" for one in located)
            few = [one for one in located if not one["complete"]]
            seeds = f", {'one seed' if len(few) == len(located) else 'some of one seed'} so far" if few else ""
            over = "" if few else f", the mean of {seeds_text(len(SEEDS))}"
            gap = f"the share of things located, Transformer minus Mamba{over}"
            return f"{gap}: {gaps}{seeds}.{_elsewhere(figure.records)}"
    alone = [said for said in baseline_says(rows) if said.startswith(f"{task_title('grounding')} (")]
    return f"at the baseline alone: {alone[0]}" if alone else ""


def _elsewhere(records: Sequence[Record]) -> str:
    """In which other tasks the Transformer is ahead at every value, in a sentence that begins with a space."""
    ahead: dict[str, bool] = {}
    for one in records:
        if one["type"] == "all" and one["task"] != "grounding":
            ahead[one["task"]] = ahead.get(one["task"], True) and who_is_ahead(one) == 1
    there = [task_title(task) for task, is_ahead in ahead.items() if is_ahead]
    return f" The Transformer is ahead elsewhere, too: {listed(there)}." if there else ""


def label(value: Any) -> str:
    return LABELS.get(value, str(value))


def _panels(records: Sequence[Record], comparison: Comparison) -> Iterator[Panel]:
    whole = [record for record in records if record["type"] == "all"]
    for task in dict.fromkeys(record["task"] for record in whole):
        mine = [record for record in whole if record["task"] == task]
        there = [value for value in comparison.values if value in {record["value"] for record in mine}]
        series = tuple(
            Series(
                family,
                tuple(_point(family, record, there.index(record["value"])) for record in mine),
                joined=comparison.ordered,
            )
            for family in FAMILIES
        )
        ticks = room({float(place): SHORT.get(value, label(value)) for place, value in enumerate(there)})
        title = f"{task_title(task)} ({mine[0]['group']})"
        floors = {record["value"]: record["floor"] for record in mine if record["floor"] is not None}
        marks = tuple(
            Point(float(there.index(value)), floor, f"The floor, {label(value)}: {share_text(floor)}")
            for value, floor in floors.items()
        )
        yield Panel(title, comparison.axis, ticks, SHARES, series, floors=marks)


def _point(family: str, record: Record, place: int) -> Point:
    low, high = (share_text(record[f"{family}_{end}"]) for end in ("low", "high"))
    words = (
        f"{NAMES[family]}, {label(record['value'])}: {share_text(record[family])} ({low} to {high}), "
        f"floor {share_text(record['floor'])}; Transformer minus Mamba {gap_text(record)}, "
        f"{record['n']:,} questions, {seeds_text(record['seeds'])}"
    )
    ends = record[f"{family}_low"], record[f"{family}_high"]
    return Point(float(place), record[family], words, *ends, hollow=not record["complete"])
