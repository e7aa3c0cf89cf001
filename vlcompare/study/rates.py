"""The rule by which the best of several learning rates is chosen, from finished rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean, median
from typing import Any

RULE = (
    "of the rates tried, the one with most rows at .95, then with fewest examples until there, then with the highest "
    "accuracy, then the lowest rate"
)


def better(rows: Iterable[Mapping[str, Any]]) -> tuple[float, float, float]:
    """A key by which the best rate's rows are smallest: see RULE."""
    rows = list(rows)
    reached = [row["reached"] for row in rows if row["reached"] is not None]
    return -len(reached) / len(rows), median(reached) if reached else 0, -mean(row["accuracy"] for row in rows)


def best_rate(rows: Iterable[Mapping[str, Any]]) -> float:
    """The rate that did best among rows that differ in rate and seed alone."""
    by_rate: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_rate.setdefault(row["learning_rate"], []).append(row)
    return min(by_rate, key=lambda rate: (*better(by_rate[rate]), rate))
