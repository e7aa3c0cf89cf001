"""The verdict on one answer: a table of tasks, what was answered, and what is said of it."""

from __future__ import annotations

import pytest

from vlcompare.evaluate.verdicts import verdict
from vlcompare.tasks.reading import MISSING, read_answer
from vlcompare.types import Answer, Box, Request

TRUTH = (Box(0.1, 0.1, 0.5, 0.5),)
SCENE = ({"kind": "car", "color": "red", "size": "small"}, {"kind": "dog", "color": "black", "size": "large"})
BOTH = (*TRUTH, Box(0.6, 0.6, 0.9, 0.9))
PHRASES = "||a red car [0.10,0.10,0.50,0.50]|| and ||a dog [0.60,0.60,0.90,0.90]||."


def judged(request: Request, text: str, **known: object) -> str | None:
    reading = read_answer(request, text)
    answer = Answer(reading.text, reading.boxes, reading.phrases, reading.parse, stop_reason="end")
    found = verdict(request, answer, **known)  # type: ignore[arg-type]
    return found.text if found else None


@pytest.mark.parametrize(
    ("request_", "text", "known", "said"),
    [
        (Request("grounding", "x"), "[0.10,0.10,0.50,0.50].", {"truth": TRUTH}, "✓ IoU 1.00"),
        (Request("grounding", "x"), "[0.10,0.10,0.50,0.40].", {"truth": TRUTH}, "✓ IoU 0.75"),
        (Request("grounding", "x"), "[0.50,0.50,0.10,0.10].", {"truth": TRUTH}, "✗ IoU 0.00"),  # inverted
        (Request("grounding", "x"), "there is none", {"truth": TRUTH}, "✗ no box"),
        (Request("grounding", "x"), "[0.10,0.10,0.50,0.50].", {}, None),
        (Request("vqa", "x"), "Red.", {"references": ("red",)}, "✓ as expected"),
        (Request("vqa", "x"), "blue", {"references": ("red",)}, "✗ expected red"),
        (Request("vqa", "x"), "red", {"references": ("red",) * 2 + ("blue",) * 8}, "✓ as expected"),
        (Request("document_vqa", "x"), "821", {"references": ("821",)}, "✓ as expected"),
        (Request("document_vqa", "x"), "621", {"references": ("821",)}, "≈ nearly: expected 821"),
        (Request("multiple_choice", "x", ("a", "b")), "B.", {"references": ("B",)}, "✓ as expected"),
        (
            Request("multiple_choice", "x", ("a", "b")),
            "perhaps",
            {"references": ("B",)},
            "✗ none of the letters; expected B",
        ),
        (Request("image_text_match", "x"), "True", {"references": ("False",)}, "✗ expected False"),
        (Request("region_description", box=TRUTH[0]), "a red car", {"references": ("A red car.",)}, "✓ as expected"),
        (Request("captioning"), "a small red car and a dog", {"objects": SCENE}, "✓ all it names is there"),
        (Request("captioning"), "a blue car", {"objects": SCENE}, "✗ names what is not there"),
        (Request("captioning"), "a small red car", {"references": ("a red car.",)}, None),
        (Request("grounded_captioning"), PHRASES, {"truth": BOTH}, "✓ 2 of 2 boxes"),
        (Request("grounded_captioning"), PHRASES[:35], {"truth": BOTH}, "≈ 1 of 2 boxes"),
        (Request("grounded_captioning"), "a red car", {"truth": BOTH}, "✗ no box"),
        (Request("chat", "x"), "hello", {"references": ("hello",)}, None),
    ],
)
def test_verdicts(request_: Request, text: str, known: dict, said: str | None) -> None:
    assert judged(request_, text, **known) == said


@pytest.mark.parametrize("ended", [{"stop_reason": "cancelled"}, {"stop_reason": "deadline"}, {"error": "It failed."}])
def test_nothing_is_said_of_a_side_that_was_stopped_or_failed(ended: dict) -> None:
    answer = Answer("[0.1", parse="unparseable", **ended)
    assert verdict(Request("grounding", "x"), answer, truth=TRUTH) is None


def test_every_way_of_reading_that_can_fail_has_its_words() -> None:
    from vlcompare.tasks.prompts import SPECS

    assert {spec.reads for spec in SPECS.values() if spec.structured} == set(MISSING)
