"""Boxes out of text and back: labelled cases, odd text, linear time, and what two decimals cost."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import pytest

from vlcompare.tasks.boxes import find_boxes, format_box, parse_boxes, rounding_ceiling
from vlcompare.types import Box

A = Box(0.10, 0.60, 0.35, 0.87)

CASES: list[tuple[str, tuple[Box, ...]]] = [
    ("[0.10,0.60,0.35,0.87].", (A,)),
    ("[ 0.10 ,0.60,  0.35 , 0.87 ]", (A,)),
    ("[0.10 0.60 0.35 0.87]", (A,)),
    ("[0.10;0.60;0.35;0.87]", (A,)),
    ("the box is [.1,.6,.35,.87] and [0,0,1,1]", (A, Box(0, 0, 1, 1))),
    ("[0.10,0.60,0.35,0.87][0,0,1,1]", (A, Box(0, 0, 1, 1))),
    ("[1e-1,6.0E-1,+0.35,0.87]", (A,)),
    ("[-0.2,0.60,1.35,12]", (Box(0, 0.6, 1, 1),)),
    ("[0.5,0.6,0.2,0.1]", (Box(0.5, 0.6, 0.2, 0.1),)),
    ("[0.10,0.60,0.35,0.87", (A,)),
    ("[[0.10,0.60,0.35,0.87]]", (A,)),
    ("[0.1,0.6,0.35]", ()),
    ("[0.1,0.6,0.35,0.87,0.9]", ()),
    ("[0.1,0.6,0.35,]", ()),
    ("[0.1,,0.6,0.35]", ()),
    ("[0.1,0.6,0.35,nan]", ()),
    ("[0.1,0.6,0.35,inf]", ()),
    ("[0.1,0.6,0.35,1e999]", ()),
    ("[a,b,c,d]", ()),
    ("[0.1,0.6,0.3.5,0.87]", ()),
    ("(0.1,0.6,0.35,0.87)", ()),
    ("0.1,0.6,0.35,0.87", ()),
    ("[]", ()),
    ("", ()),
    ("\0[\0]", ()),
    ("[0.1,0.6\n,0.35,0.87]", (Box(0.1, 0.6, 0.35, 0.87),)),
]


@pytest.mark.parametrize("text, boxes", CASES, ids=[text[:30] or "empty" for text, _ in CASES])
def test_parse(text: str, boxes: tuple[Box, ...]) -> None:
    assert parse_boxes(text) == boxes


def test_an_inverted_box_parses_and_counts_nothing() -> None:
    (box,) = parse_boxes("[0.5,0.6,0.2,0.1]")
    assert box.area == 0 and box.iou(Box(0, 0, 1, 1)) == 0


def test_places() -> None:
    text = "x [0,0,1,1] y [1,2] [.1,.2,.3,.4]."
    assert [text[found.start : found.stop] for found in find_boxes(text)] == ["[0,0,1,1]", "[.1,.2,.3,.4]"]


def test_it_never_raises() -> None:
    draw = random.Random(0)
    pieces = [
        "[",
        "]",
        ",",
        ".",
        "0",
        "9",
        "-",
        "+",
        "e",
        "E",
        " ",
        "\n",
        "0.5",
        "nan",
        "|",
        "\ud800",
        "٣",
        "½",
        "²",
        "1",
    ]
    for _ in range(3000):
        for box in parse_boxes("".join(draw.choices(pieces, k=draw.randrange(40)))):
            assert all(0.0 <= value <= 1.0 for value in box)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 300_000,
        "[0.1," * 60_000,
        "0.1," * 75_000,
        "[" + " " * 300_000 + "]",
        "[" + "9" * 300_000 + ",1,1,1]",
        "[0.1,0.2,0.3,0.4]" * 18_000,
        ("[" + " " * 399) * 750,
        ("[" + ", " * 199) * 750,
    ],
    ids=["brackets", "open", "bare", "spaces", "digits", "many", "spaced", "commas"],
)
def test_long_text_takes_linear_time(text: str) -> None:
    started = time.thread_time()
    parse_boxes(text)
    assert time.thread_time() - started < 8


FORMATTED = [
    (A, "[0.10,0.60,0.35,0.87]"),
    (Box(0.1, 0.6, 0.35, 130 / 150), "[0.10,0.60,0.35,0.87]"),
    (Box(105 / 200, 25 / 150, 175 / 200, 95 / 150), "[0.53,0.17,0.88,0.63]"),
    (Box(-0.001, 0, 1, 1.7), "[0.00,0.00,1.00,1.00]"),
    (Box(0.004, 0.006, 0.994, 0.996), "[0.00,0.01,0.99,1.00]"),
]


@pytest.mark.parametrize("box, text", FORMATTED)
def test_format(box: Box, text: str) -> None:
    assert format_box(box) == text


def test_format_as_recorded(reference: Path) -> None:
    recorded = json.loads((reference / "prompts_golden.json").read_text())["format_bbox"]
    single = [[math.floor(value * 2**24) / 2**24 for value in box] for box in recorded["normalised_boxes_of_example"]]
    # recorded from float32 values: cut to 24 bits, 0.525 lies below the tie as it did there
    assert [format_box(Box(*box)) + "." for box in single] == recorded["text"]


def test_format_and_parse_are_inverse_on_two_decimals() -> None:
    draw = random.Random(1)
    for _ in range(500):
        box = Box(*(draw.randrange(101) / 100 for _ in range(4)))
        assert parse_boxes(format_box(box)) == (box,)


def test_rounding_ceiling_is_the_best_of_all_boxes_on_the_grid() -> None:
    draw = random.Random(2)
    grid = [step / 100 for step in range(101)]
    for _ in range(40):
        x, y = draw.random() * 0.9, draw.random() * 0.9
        box = Box(x, y, x + 0.002 + 0.05 * draw.random(), y + 0.002 + 0.05 * draw.random())
        near = [[g for g in grid if abs(g - value) < 0.025] for value in box]
        best = max(
            box.iou(Box(a, b, c, d))
            for a in near[0]
            for b in near[1]
            for c in near[2]
            for d in near[3]
            if a < c and b < d
        )
        assert rounding_ceiling(box) == pytest.approx(best, abs=1e-9)


def test_rounding_ceiling_at_its_ends() -> None:
    assert rounding_ceiling(Box(0.29, 0.57, 0.58, 0.81)) == pytest.approx(1.0)
    assert rounding_ceiling(Box(0, 0, 1, 1)) == 1.0
    assert rounding_ceiling(Box(0.5, 0.5, 0.4, 0.6)) == 0.0
    tiny = Box(0.501, 0.501, 0.503, 0.503)
    assert rounding_ceiling(tiny) == pytest.approx(0.04)


@pytest.mark.parametrize("side, mean", [(0.02, 0.63), (0.05, 0.82), (0.10, 0.91)])
def test_what_plain_rounding_costs(side: float, mean: float) -> None:
    """The means for rounded boxes of a given size, and the ceiling above each."""
    draw = random.Random(3)
    reached = []
    for _ in range(1000):
        x, y = draw.uniform(0, 1 - side), draw.uniform(0, 1 - side)
        box = Box(x, y, x + side, y + side)
        (rounded,) = parse_boxes(format_box(box))
        reached.append(box.iou(rounded))
        assert rounding_ceiling(box) >= reached[-1] - 1e-9
    assert sum(reached) / len(reached) == pytest.approx(mean, abs=0.02)
