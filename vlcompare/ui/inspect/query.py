"""The user's query: filters, order and page of the samples; and how a click or the form changes it.

Frozen values and pure functions. Reading is total: a click whose `data-pick` means nothing changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vlcompare.types import SIDES

QUADRANT_TITLES = {"both": "Both right", "only_left": "Only left", "only_right": "Only right", "neither": "Both wrong"}
NOTED = {"": "All", "noted": "With a note or tag", "bare": "Without a note"}
SORTABLE = ("order", "text", *SIDES, "difference", "gap")
PAGE_ROWS = 50
MAX_TEXT = 300
JUDGED = ("iou", "score")  # measures of an answer beside the truth


@dataclass(frozen=True, slots=True)
class Range:
    """Samples whose value of one side's measure lies in low..high, high itself left out."""

    side: str
    measure: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Query:
    """One selection of samples, in one order."""

    quadrant: str = ""
    text: str = ""
    regex: bool = False
    disagree: bool = False
    gap: float = 0.0  # between both sides' mean log-probability of a token, at least
    noted: str = ""
    tag: str = ""  # an error type or a tag of one's own
    slices: tuple[tuple[str, str], ...] = ()  # (dimension, value)
    ranges: tuple[Range, ...] = ()
    sort: str = "order"
    descending: bool = False
    page: int = 0

    @property
    def narrowed(self) -> bool:
        """Whether anything is left out."""
        return bool(chips(self))

    @property
    def outcome(self) -> Query:
        """Its filters by how the answers turned out: quadrant, disagreement, ranges of what is judged.

        Among the samples that these leave, shares that are right are so by construction.
        """
        ranges = tuple(each for each in self.ranges if each.measure in JUDGED)
        return Query(quadrant=self.quadrant, disagree=self.disagree, ranges=ranges)

    @property
    def wide(self) -> Query:
        """Its filters that neither the outcome nor a slice decides: words, notes, confidence and length."""
        ranges = tuple(each for each in self.ranges if each.measure not in JUDGED)
        kept = {name: getattr(self, name) for name in ("text", "regex", "gap", "noted", "tag")}
        return Query(**kept, ranges=ranges)


def clicked(query: Query, pick: str) -> Query:
    """The query after a click on something that carries `pick`."""
    kind, _, rest = pick.partition(":")
    change = _CLICKS.get(kind)
    return change(query, rest) if change else query


def _quadrant(query: Query, name: str) -> Query:
    if name not in QUADRANT_TITLES:
        return query
    return replace(query, quadrant="" if query.quadrant == name else name, page=0)


def _slice(query: Query, rest: str) -> Query:
    dimension, separator, value = rest.partition("|")
    if not separator or len(rest) > 400:
        return query
    kept = tuple(pair for pair in query.slices if pair != (dimension, value))
    if len(kept) == len(query.slices):
        kept = (*(pair for pair in kept if pair[0] != dimension), (dimension, value))
    return replace(query, slices=kept, page=0)


def _bin(query: Query, rest: str) -> Query:
    side, _, more = rest.partition(":")
    measure, _, numbers = more.partition(":")
    bounds = _numbers(numbers, 2)
    if side not in SIDES or bounds is None:
        return query
    return _ranged(query, (Range(side, measure[:40], *bounds),))


def _cell(query: Query, rest: str) -> Query:
    measure, _, numbers = rest.partition(":")
    bounds = _numbers(numbers, 4)
    if bounds is None:
        return query
    measure = measure[:40]
    return _ranged(query, (Range("left", measure, *bounds[:2]), Range("right", measure, *bounds[2:])))


def _ranged(query: Query, ranges: tuple[Range, ...]) -> Query:
    """These ranges in place of earlier ones of the same side and measure; the same again takes them away."""
    replaced = {(r.side, r.measure) for r in ranges}
    kept = tuple(r for r in query.ranges if (r.side, r.measure) not in replaced)
    same = set(ranges) <= set(query.ranges)
    return replace(query, ranges=kept if same else (*kept, *ranges), page=0)


def _sort(query: Query, name: str) -> Query:
    """Figures start with the largest, texts with the first; a second click turns the order round, a third ends it."""
    if name not in SORTABLE:
        return query
    first = name not in ("text", "order")
    if query.sort != name:
        return replace(query, sort=name, descending=first, page=0)
    if query.descending == first:
        return replace(query, descending=not first, page=0)
    return replace(query, sort="order", descending=False, page=0)


def _page(query: Query, rest: str) -> Query:
    return replace(query, page=max(0, int(rest))) if rest.isdecimal() and len(rest) < 9 else query


def _drop(query: Query, rest: str) -> Query:
    """Take one filter away, as its chip says."""
    kind, _, value = rest.partition(":")
    if kind == "all":
        return Query(sort=query.sort, descending=query.descending)
    if kind == "slice":
        return replace(query, slices=tuple(s for s in query.slices if "|".join(s) != value), page=0)
    if kind == "range" and value.isdecimal():
        return replace(query, ranges=tuple(r for i, r in enumerate(query.ranges) if str(i) != value), page=0)
    empty = Query()
    if kind in ("quadrant", "text", "disagree", "gap", "noted", "tag"):
        return replace(query, **{kind: getattr(empty, kind)}, page=0)
    return query


_CLICKS = {
    "quadrant": _quadrant,
    "slice": _slice,
    "bin": _bin,
    "cell": _cell,
    "sort": _sort,
    "page": _page,
    "drop": _drop,
}


def filled(
    query: Query, text: object, regex: object, disagree: object, gap: object, noted: object, tag: object
) -> Query:
    """The query with the values of the filter form, clipped to its bounds."""
    try:
        least = float(gap or 0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        least = 0.0
    return replace(
        query,
        text=str(text or "").replace("\x00", "")[:MAX_TEXT],
        regex=bool(regex),
        disagree=bool(disagree),
        gap=min(50.0, max(0.0, least)) if math.isfinite(least) else 0.0,
        noted=str(noted) if noted in NOTED else "",
        tag=str(tag or "")[:80],
        page=0,
    )


def pages(count: int) -> int:
    """How many pages `count` rows take; at least one."""
    return max(1, math.ceil(count / PAGE_ROWS))


def chips(query: Query, slice_title: Callable[[str, str], str] = "{}: {}".format) -> list[tuple[str, str]]:
    """(what a filter says, what a click on it drops), in the order they are shown.

    slice_title: how a slice, its dimension and value, is called.
    """
    text = f"/{query.text}/" if query.regex else f"“{query.text}”"
    named = {"iou": "IoU"}
    ranges = [f"{r.side} {named.get(r.measure, r.measure)} {r.low:.3g} to {r.high:.3g}" for r in query.ranges]
    filters = [
        (query.quadrant, QUADRANT_TITLES.get(query.quadrant, ""), "quadrant"),
        *((True, slice_title(dimension, value), f"slice:{dimension}|{value}") for dimension, value in query.slices),
        *((True, title, f"range:{index}") for index, title in enumerate(ranges)),
        (query.text, text, "text"),
        (query.disagree, "answers differ", "disagree"),
        (query.gap, f"confidence gap ≥ {query.gap:g}", "gap"),
        (query.noted, NOTED.get(query.noted, "").lower(), "noted"),
        (query.tag, f"noted as {query.tag}", "tag"),
    ]
    return [(title, drops) for used, title, drops in filters if used]


def _numbers(text: str, count: int) -> Sequence[float] | None:
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(math.isfinite(number) for number in numbers) else None
