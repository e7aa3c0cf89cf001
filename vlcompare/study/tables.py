"""Tables from finished rows: medians and ranges over seeds at each setting's best rate.

A group holds the rows that differ in seed and rate alone. Its rate is chosen by `rates.RULE` among the rows of its
lowest seed; the rows of all seeds at that rate are then summed up. Where a training stopped at .95, its last accuracy
stands for every later count of examples. Nothing is filled in: what was not reached is None.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vlcompare.study.rates import best_rate
from vlcompare.study.rows import setting_of
from vlcompare.study.tasks import ORDERS

Row = dict[str, Any]
KEYS = ("task", "order", "length", "vocabulary", "family", "width", "layers", "state_size", "recipe", "budget")
TRAINING = ("recipe", "width", "budget", "vocabulary")
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the budget, at which accuracies are compared


@dataclass(frozen=True)
class Group:
    """The rows of one setting at its best rate, and how many rates were tried."""

    key: dict[str, Any]
    rate: float
    rows: tuple[Row, ...]
    rates_tried: int

    @property
    def chance(self) -> float:
        return setting_of(self.rows[0]).source.chance

    @property
    def training(self) -> tuple[Any, ...]:
        """The values of `TRAINING`: only families that have these in common are set beside each other."""
        return tuple(self.key[name] for name in TRAINING)


def spread(values: Iterable[float | None]) -> tuple[float | None, float | None, float | None]:
    """Median, least and most of one value a seed; None (not reached) sorts above every number."""
    values = list(values)
    known = sorted(value for value in values if value is not None)
    ordered = [*known, *[None] * (len(values) - len(known))]
    half = len(ordered) // 2
    middle = ordered[half]
    if middle is not None and len(ordered) % 2 == 0:
        middle = median(known[half - 1 : half + 1])
    return middle, ordered[0], ordered[-1]


def _summed_up(values: Iterable[float | None], before: str = "") -> Row:
    """The spread of values as columns of a table."""
    return dict(zip((f"{before}median", f"{before}least", f"{before}most"), spread(values), strict=True))


def groups(rows: Iterable[Row]) -> list[Group]:
    """The groups of all rows, in the order of their keys."""
    members: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        members.setdefault(tuple(row[name] for name in KEYS), []).append(row)
    out = []
    for key, alike in members.items():
        first = min(row["seed"] for row in alike)
        tried = [row for row in alike if row["seed"] == first]
        rate = best_rate(tried)
        best = sorted((row for row in alike if row["learning_rate"] == rate), key=lambda row: row["seed"])
        out.append(Group(dict(zip(KEYS, key, strict=True)), rate, tuple(best), len(tried)))
    return sorted(out, key=lambda group: [(value is not None, str(type(value)), value) for value in group.key.values()])


def accuracy_at(row: Row, examples: float) -> float | None:
    """Accuracy of the last evaluation after at most `examples` examples; None before the first."""
    seen = [accuracy for count, accuracy in row["curve"] if count <= examples]
    return seen[-1] if seen else None


def _head(group: Group) -> Row:
    return {
        **group.key,
        "parameters": group.rows[0]["parameters"],
        "learning_rate": group.rate,
        "rates_tried": group.rates_tried,
        "seeds": len(group.rows),
        "chance": round(group.chance, 4),
    }


def examples_to_enough(groups: Sequence[Group]) -> list[Row]:
    """Examples needed to reach .95, and the accuracy at the end."""
    return [
        {
            **_head(group),
            "reached": sum(row["reached"] is not None for row in group.rows),
            **_summed_up((row["reached"] for row in group.rows), "examples_"),
            **_summed_up((row["accuracy"] for row in group.rows), "accuracy_"),
        }
        for group in groups
    ]


def accuracy_at_equal_examples(groups: Sequence[Group]) -> list[Row]:
    """Accuracy after an eighth, a quarter, half and all of the budget."""
    return [
        {**_head(group), "examples": examples, **_summed_up(accuracy_at(row, examples) for row in group.rows)}
        for group in groups
        for examples in (int(share * group.key["budget"]) for share in SHARES)
    ]


def accuracy_by_position(groups: Sequence[Group]) -> list[Row]:
    """Accuracy at each place, one record a place."""
    return [
        {**_head(group), "place": place, **_summed_up(row["by_position"][place] for row in group.rows)}
        for group in groups
        for place in range(len(group.rows[0]["by_position"] or ()))
    ]


def extrapolation(groups: Sequence[Group]) -> list[Row]:
    """Accuracy at the trained length and at longer ones that were never trained."""
    out = []
    for group in groups:
        trained = (row["accuracy"] for row in group.rows)
        out.append({**_head(group), "tested_length": group.key["length"], **_summed_up(trained)})
        for length in group.rows[0]["extrapolation"]:
            longer = (row["extrapolation"].get(length) for row in group.rows)
            out.append({**_head(group), "tested_length": int(length), **_summed_up(longer)})
    return out


def order_against_order(groups: Sequence[Group]) -> list[Row]:
    """Query first and query last side by side, where both were trained."""
    out = []
    for group in groups:
        if group.key["order"] != "query_first":
            continue
        other = next((g for g in groups if g.key == {**group.key, "order": "query_last"}), None)
        if other is None:
            continue
        record: Row = {name: value for name, value in group.key.items() if name != "order"}
        for name, one in (("query_first", group), ("query_last", other)):
            record[f"{name}_examples"] = spread(row["reached"] for row in one.rows)[0]
            record[f"{name}_accuracy"] = spread(row["accuracy"] for row in one.rows)[0]
        out.append(record)
    return out


def of_several_state_sizes(groups: Sequence[Group]) -> list[Group]:
    """Mamba's groups, where more than one state size was trained of what is else the same."""

    def else_the_same(group: Group) -> tuple[Any, ...]:
        return tuple(group.key[name] for name in KEYS if name != "state_size")

    mamba = [group for group in groups if group.key["family"] == "mamba"]
    counts = Counter(map(else_the_same, mamba))
    return [group for group in mamba if counts[else_the_same(group)] > 1]


def by_state_size(groups: Sequence[Group]) -> list[Row]:
    """Mamba alone, where more than one state size was trained."""
    return examples_to_enough(of_several_state_sizes(groups))


def curves(groups: Sequence[Group]) -> list[Row]:
    """Accuracy at every evaluation of every training at its setting's best rate."""
    return [
        {**group.key, "learning_rate": group.rate, "seed": row["seed"], "examples": examples, "accuracy": accuracy}
        for group in groups
        for row in group.rows
        for examples, accuracy in row["curve"]
    ]


def for_lab(groups: Sequence[Group]) -> list[Row]:
    """The rows whose models the retrieval lab asks: of each order the longest length that every family was trained at
    by one recipe, with one width and budget, and the longest at which all of these models reached .95.

    Of each family the first seed at the best rate, once as many rates and seeds were tried as of any other setting of
    the task. All know the same symbols: of several vocabularies it is the one with which the longest sequences were
    learnt. Shorter lengths come first.
    """
    members = [group for group in groups if group.key["task"] == "position" and group.key["state_size"] in (None, 16)]
    tried = max(((group.rates_tried, len(group.rows)) for group in members), default=(0, 0))
    members = [group for group in members if (group.rates_tried, len(group.rows)) == tried]
    choices = [_longest(members, symbols) for symbols in sorted({group.key["vocabulary"] for group in members})]
    chosen = max(choices, key=_reach, default=[])
    return sorted((row for rows in chosen for row in rows), key=lambda row: row["length"])


def _longest(groups: Sequence[Group], vocabulary: int) -> list[list[Row]]:
    """Of each order, the rows at the longest length that all families learnt, and at the longest that they have."""
    out: list[list[Row]] = []
    for order in ORDERS:
        members = [group for group in groups if group.key["order"] == order]
        families = {group.key["family"] for group in members}
        known = [group for group in members if group.key["vocabulary"] == vocabulary]
        lengths = sorted({group.key["length"] for group in known})
        whole = [rows for length in lengths if (rows := _alike(known, length, families))]
        learnt = [rows for rows in whole if _learnt(rows)]
        out += {rows[0]["length"]: rows for rows in (*learnt[-1:], *whole[-1:])}.values()
    return out


def _alike(groups: Sequence[Group], length: int, families: set[str]) -> list[Row]:
    """A row of each of these families, all trained alike at this length; none where one is missing.

    Of several trainings it is one in which all reached .95, of these the one with the largest budget.
    """
    alike: dict[tuple[Any, ...], dict[str, Group]] = {}
    for group in (group for group in groups if group.key["length"] == length):
        alike.setdefault(group.training, {}).setdefault(group.key["family"], group)
    whole = [[group.rows[0] for group in found.values()] for found in alike.values() if set(found) == families]
    return max(whole, key=lambda rows: (_learnt(rows), rows[0]["budget"]), default=[])


def _learnt(rows: Sequence[Row]) -> bool:
    return all(row["reached"] is not None for row in rows)


def _reach(choice: Sequence[Sequence[Row]]) -> tuple[int, int, int]:
    """The longest length that is learnt, the longest of all, and how many orders and lengths there are."""
    learnt = max((rows[0]["length"] for rows in choice if _learnt(rows)), default=0)
    return learnt, max((rows[0]["length"] for rows in choice), default=0), len(choice)


def as_csv(records: Sequence[Row]) -> str:
    """A table as CSV, with a line of names."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


TABLES: dict[str, Callable[[Sequence[Group]], list[Row]]] = {
    "examples_to_95": examples_to_enough,
    "accuracy_at_equal_examples": accuracy_at_equal_examples,
    "accuracy_by_position": accuracy_by_position,
    "query_first_against_last": order_against_order,
    "state_size": by_state_size,
    "extrapolation": extrapolation,
    "curves": curves,
}
