"""The grids that have names: cpu, quick and paper. A row each; order of training is the order here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

from vlcompare.study.recipe import STUDY_FAMILIES, WIDE
from vlcompare.study.tasks import ORDERS

Rows = Iterator[dict[str, Any]]
RATES = (2e-3, 1e-3, 4e-3, 5e-4)  # the likeliest first: what is finished early is then useful
_CPU = {"vocabulary": 80, "width": 64, "budget": 512_000}
_POSITION = {"task": "position", **_CPU}
_LENGTHS = (20, 30, 50, 70, 80, 100, 200, 300, 400, 500, 576, 600)  # the paper's


def _tried(settings: Iterable[dict[str, Any]], seeds: int = 3) -> Rows:
    """Every setting at four rates with one seed, then at the best of them with the others."""
    settings = list(settings)
    for rate, setting in product(RATES, settings):
        yield {**setting, "learning_rate": rate, "seed": 0}
    for seed, setting in product(range(1, seeds), settings):
        yield {**setting, "learning_rate": "best", "seed": seed}


def _positions(length: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {**_POSITION, "length": length, "order": order, "family": family, **fields}
        for order, family in product(reversed(ORDERS), STUDY_FAMILIES)
    ]


def cpu() -> Rows:
    """Hours on two cores: lengths 10 and 20, both orders, three families; state sizes; length 40; the other tasks."""
    yield from _tried(_positions(10))
    yield from _tried(_positions(20))
    # at a length that 16 states learn within the budget: what is not learnt has no count of examples to compare
    states = [{**_POSITION, "length": 10, "order": "query_last", "family": "mamba", "state_size": n} for n in (4, 64)]
    yield from _tried(states)
    for seed, setting in product(range(3), _positions(40, rate_length=20)):
        yield {**setting, "learning_rate": "best", "seed": seed}
    others: list[dict[str, Any]] = [{**_CPU, "task": "mqar", "length": 8, "vocabulary": 128}]
    for task in ("ngram_suffix", "ngram_prefix"):
        others.append({**_CPU, "task": task, "order": "query_last", "length": 20, "vocabulary": 30})
    yield from _tried({**task, "family": family} for task, family in product(others, STUDY_FAMILIES))


def quick() -> Rows:
    """Under ten minutes on one core: one rate, one seed, a first look at both orders."""
    for setting in _positions(10, vocabulary=40, budget=81_920):
        yield {**setting, "learning_rate": 2e-3, "seed": 0}


def paper() -> Rows:
    """The paper's lengths at the sizes of its follow-up (arXiv 2603.02874). For a GPU."""
    for length in _LENGTHS:
        shape = {"width": 1024, "recipe": WIDE.name, "vocabulary": max(200, 2 * length), "budget": 20_000_000}
        layers = {"pythia": 12, "mamba": 24, "hybrid": 24}
        yield from _tried({**row, **shape, "layers": layers[row["family"]]} for row in _positions(length))


NAMED: dict[str, Callable[[], Rows]] = {"cpu": cpu, "quick": quick, "paper": paper}
