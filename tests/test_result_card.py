"""The result card: every text is on it, whole and harmless, and it can be drawn for any answer and any picture."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from PIL import Image

from vlcompare.render import fonts
from vlcompare.render.fonts import Line, printable, wrap
from vlcompare.render.result_card import MAX_HEIGHT, WIDTH, CardSide, result_card
from vlcompare.tasks.verdict import Verdict
from vlcompare.types import Answer, Box, Request, Timings, Token

ASKED = Request("grounding", "the small pink car")
TRUTH = Box(0.5, 0.5, 0.65, 0.65)
TIMES = Timings(2, 9, 40, 61.3, (3.0, 3.2, 9.0), 80, 200, "measure")
TOKENS = tuple(Token(1, "x", -1.0) for _ in range(4))
LEFT = Answer("[0.50,0.53,0.64,0.62].", (Box(0.5, 0.53, 0.64, 0.62),), (), "ok", TOKENS, timings=TIMES,
              checkpoint="tiny-pythia-vl", stop_reason="end")  # fmt: skip
RIGHT = Answer("[0.18,0.53,0.32,0.63].", (Box(0.18, 0.53, 0.32, 0.63),), (), "ok", TOKENS, timings=TIMES,
               checkpoint="tiny-mamba-vl", quantization="nf4", stop_reason="end")  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that were drawn, in order."""
    lines: list[str] = []
    draw = Line.draw

    def recorded(self: Line, *args: object) -> None:
        lines.append("".join(piece for piece, _ in self.pieces))
        draw(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Line, "draw", recorded)
    return lines


def card(left: CardSide, right: CardSide | None = None, asked: Request = ASKED, **how: object) -> Image.Image:
    picture = how.pop("picture", None) or Image.radial_gradient("L").convert("RGB")
    sides = {"left": left} | ({"right": right} if right else {})
    return result_card(picture, asked, sides, **how)  # type: ignore[arg-type]


def test_all_that_belongs_on_it_is_there(drawn: list[str]) -> None:
    sides = CardSide(LEFT, verdict=Verdict("good", "IoU 0.75")), CardSide(RIGHT, "Mamba", Verdict("bad", "IoU 0.00"))
    image = card(*sides, truth=(TRUTH,), references=("a car",), created=1.7e9)
    assert image.width == WIDTH >= 1200
    for line in ("the small pink car", "Expected: a car", LEFT.text, RIGHT.text, "✓ IoU 0.75", "✗ IoU 0.00",
                 "tiny-pythia-vl", "Mamba · nf4"):  # fmt: skip
        assert line in drawn
    assert "first token 61.3 ms · then 3.2 ms a token (median) · 4 tokens" in drawn
    assert "Dashed: the truth. The two boxes overlap with an IoU of 0.00." in drawn
    assert any("2023-11-1" in line for line in drawn)


def test_the_truth_and_both_boxes_are_on_the_picture() -> None:
    grey = Image.new("RGB", (200, 200), "#808080")
    plain = np.asarray(card(CardSide(Answer("x")), CardSide(Answer("x")), picture=grey))
    for left, right, truth in ((LEFT, Answer("x"), ()), (Answer("x"), RIGHT, ()), (Answer("x"), Answer("x"), (TRUTH,))):
        other = np.asarray(card(CardSide(left), CardSide(right), picture=grey, truth=truth))
        picture = np.s_[180:900, 60:740]
        assert (plain[picture] != other[picture]).any(-1).sum() > 1000


@pytest.mark.parametrize("length", [10, 1500, 9000])
def test_answers_are_whole(length: int, drawn: list[str]) -> None:
    words = [f"word{i}" for i in range(length // 6)]
    card(CardSide(Answer(" ".join(words))), CardSide(Answer("short")), Request("captioning"))
    assert [word for line in drawn for word in line.split() if word.startswith("word")] == words
    assert "short" in drawn


@pytest.mark.parametrize("text", ["x\n" * 50_000, "W" * 80_000, "a " * 60_000])
def test_what_is_too_long_is_cut_and_says_so(text: str, drawn: list[str]) -> None:
    image = card(CardSide(Answer(text)), CardSide(Answer(text)), Request("vqa", text), references=(text,))
    assert image.height <= MAX_HEIGHT
    assert sum("… cut here, of" in line for line in drawn) >= 3


def test_hostile_text_is_drawn_as_text(drawn: list[str]) -> None:
    text = "<img src=x onerror=alert(1)>\x1b[2J\u202e\u2066 {{7*7}} \x00 %s \udcff"
    card(CardSide(Answer(text), text, Verdict("bad", text)), asked=Request("vqa", text), references=(text,))
    assert any("<img src=x onerror=alert(1)>" in line for line in drawn)
    assert not any(unicodedata.category(character)[0] == "C" for line in drawn for character in line)


def test_a_stopped_a_failed_and_an_unreadable_side(drawn: list[str]) -> None:
    stopped = Answer("[0.1", parse="unparseable", stop_reason="cancelled", tokens=TOKENS, timings=TIMES)
    failed = Answer(error="The device ran out of memory.", stop_reason="error", checkpoint="big")
    card(CardSide(stopped), CardSide(failed))
    assert "Stopped; partial answer kept." in drawn and "The device ran out of memory." in drawn
    assert not any("could be read" in line for line in drawn)
    card(CardSide(Answer(stop_reason="cancelled")))
    assert drawn[-2] == "Stopped."
    card(CardSide(Answer("a car", parse="unparseable", stop_reason="end")))
    assert drawn[-2] == "Nothing could be read out of this text."


def test_an_anonymous_side_tells_nothing_of_its_model(drawn: list[str]) -> None:
    card(CardSide(LEFT, "Model A", anonymous=True), CardSide(RIGHT, "Model B", anonymous=True))
    assert "Model B" in drawn and not any("nf4" in line or " ms" in line or "tiny" in line for line in drawn)


@pytest.mark.parametrize("size", [(1, 1), (4000, 3), (3, 4000), (900, 300), (300, 900)])
def test_pictures_of_any_shape(size: tuple[int, int]) -> None:
    image = card(CardSide(LEFT), CardSide(RIGHT), picture=Image.new("RGB", size, "red"), truth=(TRUTH,))
    assert image.width == WIDTH and image.height < 2000


def test_races_and_choices_are_named(drawn: list[str]) -> None:
    racing = Answer("B", timings=Timings(ttft_ms=5.0, mode="race"), tokens=TOKENS[:1])
    card(CardSide(racing), CardSide(racing), Request("multiple_choice", "Where?", ("here", "there")))
    assert {"A. here", "B. there", "Where?"} <= set(drawn)
    assert "contended" in drawn[-1] and any(line.endswith("1 token") for line in drawn)


def test_what_no_font_has_becomes_its_code_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never an empty box: every character that is left has a font that draws it."""
    text = "Zürich Ελλάδα Москва שלום مرحبا ✓ → 你好 नमस्ते สวัสดี 🦄 \U000f0000 \ue000 \ud800"
    shown = printable(text)
    assert shown.startswith("Zürich Ελλάδα Москва שלום مرحبا ✓ →")
    assert all(fonts._number(character) is not None for character in shown)
    assert "\\U000f0000" in shown and "\\ud800" in shown
    first = fonts._files()[:1]
    monkeypatch.setattr(fonts, "_files", lambda: first)
    fonts._number.cache_clear()
    assert "\\u4f60\\u597d" in printable(text)
    fonts._number.cache_clear()


@pytest.mark.parametrize(
    "text", ["one two three " * 20, "x" * 500, "e\u0301" * 200, "مرحبا بالعالم " * 30, "a\n\n\n\nb"]
)
def test_lines_are_within_their_width_and_lose_nothing(text: str) -> None:
    lines = list(wrap(text, 300, 20))
    assert max(line.width for line in lines) <= 300
    assert "".join("".join(piece for piece, _ in line.pieces) for line in lines).replace(" ", "") == "".join(
        text.split()
    )
    assert not any(line.pieces and unicodedata.combining(line.pieces[0][0][0]) for line in lines)
    assert sum(not line.pieces for line in lines) == text.count("\n\n\n\n")  # blank lines, one at a time
