"""Tables from finished rows: medians and ranges over seeds at each setting's best rate. Rows in, plain records out.

A group is what differs in seed and rate alone. Its rate is chosen by `grid.RULE` among the rows of its lowest seed; the
rows of all seeds at that rate are then summed up. Where a training stopped at .95, its last accuracy stands for every
later count of examples. Nothing is filled in: what was not reached is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vlcompare.study.grid import best_rate
from vlcompare.study.rows import setting_of

Row = dict[str, Any]
KEYS = ("task", "order", "length", "vocabulary", "family", "width", "layers", "state_size", "recipe", "budget")
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the budget, at which accuracies are compared


@dataclass(frozen=True)
class Group:
    """The rows of one setting at its best rate, and what was tried."""

    key: dict[str, Any]
    rate: float
    rows: tuple[Row, ...]
    rates_tried: int

    @property
    def chance(self) -> float:
        return setting_of(self.rows[0]).source.chance

    def spread(self, value: Callable[[Row], float | None]) -> tuple[float | None, float | None, float | None]:
        """Median, least and most over the seeds; None stands above every number (not reached)."""
        found = [value(row) for row in self.rows]
        known = sorted(x for x in found if x is not None)
        whole = [*known, *[None] * (len(found) - len(known))]
        middle = whole[len(whole) // 2]
        if middle is not None and len(whole) % 2 == 0:
            middle = median(known[len(whole) // 2 - 1 : len(whole) // 2 + 1])
        return middle, whole[0], whole[-1]


def groups(rows: Iterable[Row]) -> list[Group]:
    """In the order of their keys."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in KEYS), []).append(row)
    out = []
    for key, members in found.items():
        first = min(row["seed"] for row in members)
        tried = [row for row in members if row["seed"] == first]
        rate = best_rate(tried)
        best = sorted((row for row in members if row["learning_rate"] == rate), key=lambda row: row["seed"])
        out.append(Group(dict(zip(KEYS, key, strict=True)), rate, tuple(best), len(tried)))
    return sorted(out, key=lambda group: [(value is not None, str(type(value)), value) for value in group.key.values()])


def accuracy_at(row: Row, examples: float) -> float | None:
    """Accuracy of the last evaluation at or before so many examples; None before the first."""
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


def examples_to_enough(found: Sequence[Group]) -> list[Row]:
    """Examples needed to reach .95, and the accuracy at the end."""
    out = []
    for group in found:
        middle, low, high = group.spread(lambda row: row["reached"])
        accuracy = group.spread(lambda row: row["accuracy"])
        reached = sum(row["reached"] is not None for row in group.rows)
        out.append(
            {**_head(group), "reached": reached, "examples_median": middle, "examples_least": low,
             "examples_most": high, "accuracy_median": accuracy[0], "accuracy_least": accuracy[1],
             "accuracy_most": accuracy[2]}
        )  # fmt: skip
    return out


def accuracy_at_equal_examples(found: Sequence[Group]) -> list[Row]:
    """Accuracy after an eighth, a quarter, half and all of the budget."""
    out = []
    for group in found:
        for share in SHARES:
            examples = int(share * group.key["budget"])
            middle, low, high = group.spread(lambda row, examples=examples: accuracy_at(row, examples))  # type: ignore[misc]
            out.append({**_head(group), "examples": examples, "median": middle, "least": low, "most": high})
    return out


def accuracy_by_position(found: Sequence[Group]) -> list[Row]:
    """Accuracy at each place, one record a place."""
    out = []
    for group in found:
        for place in range(len(group.rows[0]["by_position"] or ())):
            middle, low, high = group.spread(lambda row, place=place: row["by_position"][place])  # type: ignore[misc]
            out.append({**_head(group), "place": place, "median": middle, "least": low, "most": high})
    return out


def _tested(row: Row, length: str) -> float | None:
    """Accuracy at a longer length by its name, or at the trained one ("")."""
    return row["extrapolation"].get(length) if length else row["accuracy"]


def extrapolation(found: Sequence[Group]) -> list[Row]:
    """Accuracy at the trained length and at longer ones that were never trained."""
    out = []
    for group in found:
        asked = [(group.key["length"], "")] + [(int(n), n) for n in group.rows[0]["extrapolation"]]
        for length, name in asked:
            middle, low, high = group.spread(lambda row, name=name: _tested(row, name))  # type: ignore[misc]
            out.append({**_head(group), "tested_length": length, "median": middle, "least": low, "most": high})
    return out


def order_against_order(found: Sequence[Group]) -> list[Row]:
    """Query first and query last side by side, where both were trained."""
    out = []
    for group in found:
        if group.key["order"] != "query_first":
            continue
        other = next((g for g in found if g.key == {**group.key, "order": "query_last"}), None)
        if other is None:
            continue
        record: Row = {name: value for name, value in group.key.items() if name != "order"}
        for name, one in (("query_first", group), ("query_last", other)):
            record[f"{name}_examples"] = one.spread(lambda row: row["reached"])[0]
            record[f"{name}_accuracy"] = one.spread(lambda row: row["accuracy"])[0]
        out.append(record)
    return out


def by_state_size(found: Sequence[Group]) -> list[Row]:
    """Mamba alone, where more than one state size was trained."""
    out = []
    for record in examples_to_enough([group for group in found if group.key["family"] == "mamba"]):
        alike = [
            group
            for group in found
            if group.key["family"] == "mamba"
            and all(group.key[name] == record[name] for name in KEYS if name != "state_size")
        ]
        if len(alike) > 1:
            out.append(record)
    return out


TABLES: dict[str, Callable[[Sequence[Group]], list[Row]]] = {
    "examples_to_95": examples_to_enough,
    "accuracy_at_equal_examples": accuracy_at_equal_examples,
    "accuracy_by_position": accuracy_by_position,
    "query_first_against_last": order_against_order,
    "state_size": by_state_size,
    "extrapolation": extrapolation,
}
