"""How answers are read, task by task, as a table; and that any text is read."""

from __future__ import annotations

import random
import time

import pytest

from vlcompare.tasks.prompts import SPECS
from vlcompare.tasks.reading import Reading, link_phrases, read_answer
from vlcompare.types import Box, Request

LEFT, RIGHT = Box(0.10, 0.60, 0.35, 0.87), Box(0.53, 0.17, 0.88, 0.63)
CHOOSE = Request("multiple_choice", "q", choices=("a", "b", "c"))
POINT = Request("pointing", "q", choices=(RIGHT, LEFT))
BARS = "||a blue box [0.10,0.60,0.35,0.87]|| near ||a disc [0.53,0.17,0.88,0.63]||."

CASES: list[tuple[Request, str, Reading]] = [
    (Request("captioning"), " A man rides a bike. \n", Reading("A man rides a bike.")),
    (Request("captioning"), "", Reading("")),
    (Request("vqa"), "Dark blue.", Reading("Dark blue")),
    (Request("vqa"), " 3.5.\n", Reading("3.5")),
    (Request("vqa"), "Wait...", Reading("Wait..")),
    (Request("document_vqa"), "Rs. 12 Crore.", Reading("Rs. 12 Crore")),
    (Request("region_description"), "A blue box.\nAnd more", Reading("A blue box.")),
    (Request("chat"), "\nIt is flying.\nWhy?", Reading("It is flying.")),
    (Request("image_text_match"), "True.", Reading("True", parse="ok")),
    (Request("image_text_match"), " FALSE\n", Reading("False", parse="ok")),
    (Request("image_text_match"), "Truely", Reading("Truely", parse="unparseable")),
    (Request("image_text_match"), "Yes.", Reading("Yes.", parse="unparseable")),
    (Request("image_text_match"), "Not True.", Reading("Not True.", parse="unparseable")),
    (CHOOSE, "B.", Reading("B", parse="ok")),
    (CHOOSE, "b", Reading("B", parse="ok")),
    (CHOOSE, "(C)\nbecause", Reading("C", parse="ok")),
    (CHOOSE, "A: a cell wall", Reading("A", parse="ok")),
    (CHOOSE, "A dog", Reading("A dog", parse="unparseable")),
    (CHOOSE, "D.", Reading("D.", parse="unparseable")),
    (CHOOSE, "", Reading("", parse="unparseable")),
    (CHOOSE, "Because.", Reading("Because.", parse="unparseable")),
    (Request("multiple_choice"), "A.", Reading("A.", parse="unparseable")),
    (POINT, "B.", Reading("B", (LEFT,), (), "ok")),
    (POINT, "C.", Reading("C.", (), (), "unparseable")),
    (POINT, "[0.10,0.60,0.35,0.87].", Reading("[0.10,0.60,0.35,0.87].", (), (), "unparseable")),
    (Request("grounding"), "[0.10,0.60,0.35,0.87].", Reading("[0.10,0.60,0.35,0.87].", (LEFT,), (), "ok")),
    (Request("grounding"), "no such thing", Reading("no such thing", (), (), "unparseable")),
    (Request("grounding"), "[0.1,0.2]", Reading("[0.1,0.2]", (), (), "unparseable")),
    (Request("grounded_captioning"), BARS, Reading(BARS, (LEFT, RIGHT), ("a blue box", "a disc"), "ok")),
    (Request("grounded_captioning"), "Two boxes.", Reading("Two boxes.", (), (), "unparseable")),
    (Request("no such task"), " x ", Reading("x")),
]


@pytest.mark.parametrize("request_, text, reading", CASES, ids=[f"{r.task}:{t[:20]!r}" for r, t, _ in CASES])
def test_read(request_: Request, text: str, reading: Reading) -> None:
    assert read_answer(request_, text) == reading


LINKED = [
    ("||A dog [0,0,1,1]|| runs.", ["A dog"]),
    ("There is ||a dog [0,0,1,1]||, and ||the red car on the left [0,0,1,1]||", ["a dog", "the red car on the left"]),
    ("||two dogs [0,0,.5,1][.5,0,1,1]|| run", ["two dogs", "two dogs"]),
    ("||a dog [0,0,1,1]", ["a dog"]),
    ("a dog [0,0,1,1] near the red car [0,0,1,1].", ["a dog", "the red car"]),
    ("A man [0,0,1,1] with dogs [0,0,1,1]", ["A man", "dogs"]),
    ("In the sun, trees [0,0,1,1]", ["trees"]),
    ("[0,0,1,1]", [""]),
    ("|| [0,0,1,1]||", [""]),
    ("||a dog|| [0,0,1,1]", ["a dog"]),
    ("||a dog [0,0,1,1]|| and ||[0,0,1,1]||", ["a dog", ""]),
    ("||a dog [0,0,1,1] [0,0,1,1]|| [0,0,1,1]", ["a dog", "a dog", ""]),
    ("plain", []),
]


@pytest.mark.parametrize("text, phrases", LINKED, ids=[text[:30] for text, _ in LINKED])
def test_phrases_beside_boxes(text: str, phrases: list[str]) -> None:
    assert [phrase for phrase, _ in link_phrases(text)] == phrases


def test_any_text_is_read() -> None:
    draw = random.Random(0)
    pieces = ["[", "]", "0.1", ",", "||", "A", "b", ".", "\n", "True", " ", "\0", "\ud800", "é", ")", "[0,0,1,1]"]
    for _ in range(400):
        text = "".join(draw.choices(pieces, k=draw.randrange(30)))
        for task in SPECS:
            choices = (LEFT, RIGHT) if task == "pointing" else ("a", "b")
            reading = read_answer(Request(task, "q", choices=choices), text)
            assert reading.parse in ("ok", "none", "unparseable")
            assert len(reading.phrases) in (0, len(reading.boxes))


def test_long_text_takes_linear_time() -> None:
    started = time.thread_time()
    for text in ("||a dog [0,0,1,1]|| " * 10_000, "||" * 100_000, "a " * 100_000, "(" * 200_000, "\n" * 200_000):
        for task in SPECS:
            read_answer(Request(task, "q", choices=("a",)), text)
    assert time.thread_time() - started < 20
