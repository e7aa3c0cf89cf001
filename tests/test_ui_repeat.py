"""The shown run repeated, without a browser: what is refused, a failing round, sides that are exchanged meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ui_fakes import words

from vlcompare.comparison import Event
from vlcompare.errors import DeviceMemoryError
from vlcompare.types import Answer, Request, Side, Timings
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.panels.repeat import can_repeat, repeat_shown, repeats_view
from vlcompare.ui.compare.session import CompareSession, Picture, Run, SideRun
from vlcompare.ui.settings import AppSettings

FIRST = {"fast": 10.0, "slow": 30.0}


class Comparing:
    """Answers at once, each model in its own time; from round `fails` on it raises."""

    def __init__(self, fails: int = 99) -> None:
        self.rounds, self.fails = 0, fails

    def __call__(self, image: Any, request: Request, sides: dict[str, Side], **how: Any) -> Iterator[Any]:
        self.rounds += 1
        if self.rounds >= self.fails:
            raise DeviceMemoryError("The device ran out of memory.")
        assert how["mode"] == "measure"
        for name, side in sides.items():
            yield Event(name, "status", "Answering")
            yield Event(name, "answer", answer(side.checkpoint))


def answer(checkpoint: str, **other: Any) -> Answer:
    first = FIRST[checkpoint]
    timings = Timings(ttft_ms=first, token_ms=(first / 2,), total_ms=2 * first, cpu_ms=first)
    return Answer(timings=timings, checkpoint=checkpoint, stop_reason="end", **other)


def shown(compare: Comparing, **how: Any) -> tuple[Handlers, CompareSession, Run]:
    sides = {side: SideRun(Side(name), answer=answer(name)) for side, name in (("left", "fast"), ("right", "slow"))}
    run = Run(Request("captioning"), Picture(b"", b"", 4, 3), sides, **how)
    session = CompareSession()
    session.show(run)
    return Handlers(AppSettings(), compare), session, run


def test_who_is_faster_is_said_by_name_and_a_busy_machine_is_told() -> None:
    handlers, session, run = shown(Comparing())
    *_, last = repeat_shown(handlers, session)
    said = words(last["view"])
    assert "5 rounds" in said and "fast is faster: the ranges do not overlap." in said
    assert "This machine is busy" in said and "50 %" in said
    assert session.cancel is None and session.finished.is_set() and session.shown is run


def test_sides_that_are_exchanged_meanwhile_keep_their_times() -> None:
    handlers, session, run = shown(Comparing())
    pages = repeat_shown(handlers, session)
    for _ in range(6):
        next(pages)
    session.swap()
    list(pages)
    assert run.repeats is not None and len(run.repeats.rounds) == 5
    assert run.sides["left"].settings.checkpoint == "slow"
    assert run.repeats.spread("left", "ttft_ms").median == FIRST["slow"]  # type: ignore[union-attr]
    session.swap()
    assert run.repeats.spread("left", "ttft_ms").median == FIRST["fast"]  # type: ignore[union-attr]


def test_a_measurement_that_ends_leaves_what_is_said_of_the_next_question() -> None:
    handlers, session, run = shown(Comparing())
    pages = repeat_shown(handlers, session)
    assert words(next(pages)["message"]) == ""
    session.next_asked()  # what is wrong with it is said at once
    *_, last = pages
    assert "message" not in last and "data-running" not in last["state"] and run.id in last["state"]


def test_a_round_that_fails_says_why_and_keeps_those_before() -> None:
    handlers, session, run = shown(Comparing(fails=3))
    *_, last = repeat_shown(handlers, session)
    assert "A round failed: The device ran out of memory." in words(last["message"])
    assert "Stopped after 2 rounds of 5" in words(last["view"])
    assert session.cancel is None and run.repeats is not None and len(run.repeats.rounds) == 2


def test_closing_it_stops_the_comparison() -> None:
    handlers, session, run = shown(Comparing())
    pages = repeat_shown(handlers, session)
    next(pages)
    cancel = session.cancel
    pages.close()  # type: ignore[attr-defined]
    assert cancel is not None and cancel.is_set() and session.cancel is None


@pytest.mark.parametrize(
    "change",
    [
        lambda run: setattr(run, "blind", True),
        lambda run: setattr(run, "imported", True),  # its checkpoint may be any path of this machine
        lambda run: setattr(run.sides["left"], "answer", None),
        lambda run: setattr(run.sides["left"], "answer", answer("fast", error="The file is cut off.")),
        lambda run: [setattr(part, "answer", Answer(stop_reason="recorded")) for part in run.sides.values()],
    ],
)
def test_what_has_no_times_to_compare_is_not_repeated(change: Any) -> None:
    handlers, session, run = shown(Comparing())
    change(run)
    assert not can_repeat(run)
    (page,) = repeat_shown(handlers, session)
    assert "press Compare first" in words(page["message"])
    assert words(repeats_view(run)) in ("", "One run: another one may take longer or shorter.")
    assert not can_repeat(None) and words(repeats_view(None)) == ""
