"""One comparison run several times: the median and the range of its times, and which side is faster, if any.

A single run says little about speed on a machine that does other things as well. Each round asks every side once, one
after the other, and the side that goes first changes from round to round, so that drifts (temperature, other
programs) affect both alike. A side is called faster only if the ranges do not overlap.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vlcompare.comparison import Event, compare
from vlcompare.errors import RequestError
from vlcompare.types import CUT_SHORT, Answer, Request, Side, Timings

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model_pool import ModelPool

Figure = Literal["ttft_ms", "token_ms"]
FIGURES: tuple[Figure, ...] = ("ttft_ms", "token_ms")
MAX_ROUNDS = 50  # rounds
# below this ratio of CPU time to wall time, other programs are taken to have slowed the answers: the answering thread
# waits only for the other threads of a matrix product, and on a free machine the ratio was .93 or more
BUSY = 0.85


class Spread(NamedTuple):
    """One figure over all rounds, in milliseconds."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]  # in the order of the rounds

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Spread:
        """Raises ValueError where there is no value."""
        return cls(statistics.median(values), min(values), max(values), values)

    def overlaps(self, other: Spread) -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, slots=True)
class Repeats:
    """The rounds that are complete: in each, the times of every side's answer. `asked`: how many rounds were wanted."""

    rounds: tuple[Mapping[str, Timings], ...]
    asked: int

    @property
    def sides(self) -> tuple[str, ...]:
        return tuple(self.rounds[0]) if self.rounds else ()

    def spread(self, side: str, figure: Figure) -> Spread | None:
        """A side's "ttft_ms" (request until the first token) or "token_ms" (median gap between tokens of an answer).

        None where a round lacks it: an answer of one token has no gap.
        """
        values = [_figure(times[side], figure) for times in self.rounds]
        return None if not values or None in values else Spread.of(tuple(values))  # type: ignore[arg-type]

    def faster(self, figure: Figure) -> str | None:
        """The side whose slowest round is faster than every other side's fastest.

        None where ranges overlap, or there are fewer than two rounds or sides.
        """
        spreads = {side: self.spread(side, figure) for side in self.sides}
        if len(self.rounds) < 2 or len(spreads) < 2 or None in spreads.values():
            return None
        best = min(spreads, key=lambda side: spreads[side].median)  # type: ignore[union-attr]
        rest = [spread for side, spread in spreads.items() if side != best]
        return None if any(spreads[best].overlaps(other) for other in rest) else best  # type: ignore[union-attr,arg-type]

    @property
    def cpu_share(self) -> float | None:
        """CPU time over wall time of the threads that answered, over all rounds; None on another device than a CPU.

        Near 1 where they ran whenever they could; less where other programs had the processors meanwhile.
        """
        timings = [timing for times in self.rounds for timing in times.values()]
        if not timings or not all(timing.cpu_ms and timing.total_ms for timing in timings):
            return None
        return min(1.0, sum(timing.cpu_ms for timing in timings) / sum(timing.total_ms for timing in timings))

    @property
    def busy(self) -> bool:
        """Whether other programs took a noticeable share of the processors, so that the times are too long."""
        share = self.cpu_share
        return share is not None and share < BUSY

    def renamed(self, names: Mapping[str, str]) -> Repeats:
        """The same rounds with the sides under other names."""
        return Repeats(tuple({names[side]: times for side, times in one.items()} for one in self.rounds), self.asked)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the figures of each side in milliseconds, and who is faster."""
        figures = {}
        for side in self.sides:
            spreads = {figure: self.spread(side, figure) for figure in FIGURES}
            figures[side] = {name: spread._asdict() if spread else None for name, spread in spreads.items()}
        return {
            "asked": self.asked,
            "rounds": len(self.rounds),
            "sides": figures,
            "faster": {figure: self.faster(figure) for figure in FIGURES},
            "cpu_share": self.cpu_share,
            "busy": self.busy,
        }


def repeat(
    image: Any,
    request: Request,
    sides: Mapping[str, Side],
    *,
    count: int = 5,
    pool: ModelPool | None = None,
    cancel: threading.Event | None = None,
    deadline: float | None = None,
    tick: float | None = None,
) -> Iterator[Event | Repeats | None]:
    """Run a comparison `count` times (2 to 50), measured; yields its events, and after each round the Repeats so far.

    image, request, sides, cancel, deadline (seconds of each answer) and tick: as in `vlcompare.compare`. Ends early
    where it is cancelled, or where a side fails: a round that is not complete is left out. Raises RequestError at once
    for another count, or a request that no side could be asked.
    """
    from vlcompare.runtime.loading.model_pool import ModelPool

    pool, cancel = pool or ModelPool(), cancel or threading.Event()

    def ask(ordered: Mapping[str, Side]) -> Iterator[Event]:
        return compare(image, request, ordered, pool=pool, cancel=cancel, deadline=deadline, tick=tick)

    return repeat_with(ask, sides, count)


def repeat_with(
    ask: Callable[[Mapping[str, Side]], Iterator[Event]], sides: Mapping[str, Side], count: int = 5
) -> Iterator[Event | Repeats | None]:
    """`repeat` by any way to ask: `ask` gets the sides in a round's order, and returns that comparison's events."""
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MAX_ROUNDS:
        raise RequestError(f"A comparison is repeated 2 to {MAX_ROUNDS} times, not {count!r}.")
    return _rounds(ask, dict(sides), count, ask(sides))


def _rounds(
    ask: Callable[[Mapping[str, Side]], Iterator[Event]], sides: dict[str, Side], count: int, events: Iterator[Event]
) -> Iterator[Event | Repeats | None]:
    """events: of the first round, which was asked before, so that a mistake is told at once."""
    done: list[Mapping[str, Timings]] = []
    while True:
        answers: dict[str, Answer] = {}
        with closing(events):  # type: ignore[type-var]  # a stream that is not read to its end must end its work
            for event in events:
                if event is not None and isinstance(event.value, Answer):
                    answers[event.side] = event.value
                yield event
        if any(answer.error or answer.stop_reason in CUT_SHORT for answer in answers.values()):
            return
        done.append({name: answers[name].timings for name in sides})
        yield Repeats(tuple(done), count)
        if len(done) == count:
            return
        names = list(sides) if len(done) % 2 == 0 else list(sides)[::-1]
        events = ask({name: sides[name] for name in names})


def _figure(timings: Timings, figure: Figure) -> float | None:
    if figure == "ttft_ms":
        return timings.ttft_ms or None
    return statistics.median(timings.token_ms) if timings.token_ms else None
