"""The comparisons on pictures as figures, from rows alone: a panel for each task, the gap in words and in tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlcompare.render.panels import Panel, Point, Series
from vlcompare.study.figures import NAMES, SHARES, Figure, seeds_text, share_text
from vlcompare.study.pictures.gaps import Record, all_records
from vlcompare.study.pictures.grids import COMPARISONS, SEEDS
from vlcompare.tasks.prompts import task_title
from vlcompare.types import FAMILIES

LABELS = {
    "image_first": "image first",
    "template_first": "template first",
    "query_first": "query first",
    "image_twice": "image twice",
    "query_around": "query around",
}


def picture_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """A figure for each comparison of which at least two values have rows of both families."""
    records = all_records(rows)
    made = []
    for comparison in COMPARISONS:
        if found := records.get(comparison.name):
            panels = tuple(_panels(found, comparison.values))
            made.append(Figure(comparison.name, comparison.title, reads(found), panels, tuple(found), ()))
    return made


def reads(records: Sequence[Record]) -> str:
    """How a figure is read, and whether it is finished."""
    asked = " and ".join(f"{count:,}" for count in sorted({record["questions_trained"] for record in records}))
    text = (
        f"Share of held-out questions answered right after {asked} questions of training, the same for all; bars are "
        "95 % intervals over pictures."
    )
    if all(record["complete"] for record in records):
        return text
    return f"{text} Unfinished: fewer than {len(SEEDS)} seeds at some values, so this is no finding yet."


def label(value: Any) -> str:
    return LABELS.get(value, str(value))


def _panels(records: Sequence[Record], values: Sequence[Any]) -> Iterator[Panel]:
    whole = [record for record in records if record["type"] == "all"]
    for task in dict.fromkeys(record["task"] for record in whole):
        mine = [record for record in whole if record["task"] == task]
        there = [value for value in values if value in {record["value"] for record in mine}]
        series = tuple(
            Series(family, tuple(_point(family, record, there.index(record["value"])) for record in mine))
            for family in FAMILIES
        )
        ticks = {float(place): label(value) for place, value in enumerate(there)}
        title = f"{task_title(task)} ({mine[0]['group']})"
        yield Panel(title, x_ticks=ticks, y_ticks=SHARES, series=series)


def _point(family: str, record: Record, place: int) -> Point:
    low, high = record[f"{family}_low"], record[f"{family}_high"]
    words = (
        f"{NAMES[family]}, {label(record['value'])}: {share_text(record[family])} ({share_text(low)} to "
        f"{share_text(high)}); Transformer minus Mamba {record['gap']:+.2f} ({record['gap_low']:+.2f} to "
        f"{record['gap_high']:+.2f}), {record['n']:,} questions, {seeds_text(record['seeds'])}"
    )
    return Point(float(place), record[family], words, low, high, hollow=not record["complete"])
