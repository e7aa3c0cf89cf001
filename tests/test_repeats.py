"""A comparison repeated: who goes first, medians and ranges, when a side is called faster, when the machine is busy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import write_checkpoint

from vlcompare import repeats as module
from vlcompare.cli import main
from vlcompare.comparison import Event
from vlcompare.errors import RequestError
from vlcompare.repeats import Repeats, Spread, repeat
from vlcompare.runtime.clock import Clock
from vlcompare.types import Answer, Request, Side, Timings

REQUEST = Request("captioning")
SIDES = {"left": Side("one"), "right": Side("two")}


def answer(first: float, gaps: tuple[float, ...] = (2.0, 4.0, 3.0), cpu: float = 0.0, **other: Any) -> Answer:
    return Answer(timings=Timings(ttft_ms=first, token_ms=gaps, total_ms=100.0, cpu_ms=cpu), **other)


def rounds(left: list[float], right: list[float], **how: Any) -> Repeats:
    pairs = zip(left, right, strict=True)
    times = ({"left": answer(one, **how).timings, "right": answer(two, **how).timings} for one, two in pairs)
    return Repeats(tuple(times), len(left))


class FakeCompare:
    """Answers at once; notes in which order the sides were asked. `ends`: what the answer of a round and side is."""

    def __init__(self, ends: dict[tuple[int, str], Answer] | None = None) -> None:
        self.orders: list[list[str]] = []
        self.ends = ends or {}

    def __call__(self, image: Any, request: Request, sides: Any, *, cancel: threading.Event, **_: Any) -> Iterator[Any]:
        return self._events(sides)

    def _events(self, sides: Any) -> Iterator[Any]:
        index = len(self.orders)
        self.orders.append(list(sides))
        yield None
        for name in sides:
            yield Event(name, "answer", self.ends.get((index, name), answer(10.0 + index)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCompare:
    fake = FakeCompare()
    monkeypatch.setattr(module, "compare", fake)
    return fake


def test_the_side_that_goes_first_changes_and_the_names_keep_their_order(fake: FakeCompare) -> None:
    found = [item for item in repeat(b"", REQUEST, SIDES, count=5) if isinstance(item, Repeats)]
    assert fake.orders == [["left", "right"], ["right", "left"]] * 2 + [["left", "right"]]
    assert [len(item.rounds) for item in found] == [1, 2, 3, 4, 5]
    assert found[-1].sides == ("left", "right")
    assert found[-1].spread("left", "ttft_ms") == Spread(12.0, 10.0, 14.0, (10.0, 11.0, 12.0, 13.0, 14.0))
    assert found[-1].spread("left", "token_ms") == Spread(3.0, 3.0, 3.0, (3.0,) * 5)


@pytest.mark.parametrize(
    ("left", "right", "faster"),
    [
        ([1.0, 2.0, 3.0], [3.5, 4.0, 9.0], "left"),
        ([8.0, 7.0, 9.0], [3.5, 4.0, 6.0], "right"),
        ([1.0, 2.0, 3.0], [3.0, 4.0, 9.0], None),  # they touch
        ([1.0, 2.0, 30.0], [3.5, 4.0, 9.0], None),  # one slow round is enough for doubt
        ([1.0], [2.0], None),  # one run alone names nobody
    ],
)
def test_a_side_is_faster_only_where_the_ranges_do_not_overlap(
    left: list[float], right: list[float], faster: str | None
) -> None:
    found = rounds(left, right)
    assert found.faster("ttft_ms") == faster
    assert found.faster("token_ms") is None  # the same on both sides
    assert rounds(left, right, gaps=()).spread("left", "token_ms") is None


def test_busy_is_cpu_time_against_wall_time() -> None:
    assert rounds([1.0], [1.0], cpu=98.0).cpu_share == pytest.approx(0.98) and not rounds([1.0], [1.0], cpu=98.0).busy
    assert rounds([1.0], [1.0], cpu=50.0).busy
    assert rounds([1.0], [1.0], cpu=0.0).cpu_share is None and not rounds([1.0], [1.0], cpu=0.0).busy  # a GPU's


@pytest.mark.parametrize("end", [{"stop_reason": "cancelled"}, {"error": "Out of memory.", "stop_reason": "error"}])
def test_a_round_that_is_not_complete_ends_it_and_does_not_count(
    monkeypatch: pytest.MonkeyPatch, end: dict[str, Any]
) -> None:
    fake = FakeCompare({(2, "right"): answer(1.0, **end)})
    monkeypatch.setattr(module, "compare", fake)
    found = [item for item in repeat(b"", REQUEST, SIDES) if isinstance(item, Repeats)]
    assert len(found) == 2 and len(found[-1].rounds) == 2 and found[-1].asked == 5
    assert len(fake.orders) == 3


@pytest.mark.parametrize("count", [0, 1, 51, True, 2.0, "5", None])
def test_a_count_that_is_none(count: Any) -> None:
    with pytest.raises(RequestError, match="2 to 50 times"):
        repeat(b"", REQUEST, SIDES, count=count)


def test_a_mistake_is_told_at_once() -> None:
    with pytest.raises(RequestError):
        repeat(b"", Request("vqa"), SIDES)


def test_the_clock_counts_the_thread_s_cpu_time_without_pauses() -> None:
    clock = Clock(torch.device("cpu"))
    time.sleep(0.05)  # takes no processor
    clock.lap()
    assert 0 <= clock.cpu < 0.5 * clock.total
    before = clock.cpu
    with clock.paused():
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
    clock.lap()
    assert clock.cpu - before < 0.025


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeats")
    for family in ("pythia", "mamba"):
        write_checkpoint(folder / family, family)
    Image.new("RGB", (60, 40), (200, 40, 40)).save(folder / "picture.png")
    return folder


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture) -> None:
    sides = ["--left", str(folder / "pythia"), "--right", str(folder / "mamba"), "--device", "cpu"]
    command = ["compare", str(folder / "picture.png"), "--max-new-tokens", "4", *sides, "--repeat", "2"]
    assert main([*command, "--json", str(folder / "run.json")]) == 0
    printed = capsys.readouterr().out
    assert "\nround 1 " in printed and "\n2 rounds" in printed
    data = json.loads((folder / "run.json").read_text())
    assert set(data["sides"]) == {"left", "right"}
    timings = data["sides"]["left"]["timings"]
    assert 0 < timings["cpu_ms"] <= timings["total_ms"] * 1.05  # the two clocks are read one after the other
    found = data["repeats"]["sides"]["right"]["ttft_ms"]
    assert found["low"] <= found["median"] <= found["high"] and len(found["values"]) == 2
    assert 0 < data["repeats"]["cpu_share"] <= 1
    assert main([*command, "--race"]) == 2
    assert "--race" in capsys.readouterr().err
