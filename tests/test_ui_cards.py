"""What the page shows, as markup: nothing a person or a model wrote is ever markup, and figures say what they are."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ui_fakes import png, words

from vlcompare.cli.report import answers_table
from vlcompare.paths import CHECKPOINTS
from vlcompare.render import answer_charts as charts
from vlcompare.render.markup import Safe, el, join
from vlcompare.runtime.image import open_image
from vlcompare.types import SIDES, Alternative, Answer, Box, Memory, Prompt, Request, Side, Step, Timings, Token
from vlcompare.ui.checkpoint_names import memory_curves, name_of
from vlcompare.ui.compare import cards, display_limits, figures, together, tokens
from vlcompare.ui.compare.picture import alternative_boxes, overlay, side_picture
from vlcompare.ui.compare.session import Picture, Run, SideRun
from vlcompare.ui.score_tables import scores_table
from vlcompare.units import format_bytes, milliseconds, number

EVIL = "<img src=x onerror=alert(1)> & \" ' ${x} {{y}} \x00\x1b"


class Tags(HTMLParser):
    """Collects the tags, and checks that every one of them is closed."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.feed(markup)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in ("img", "br", "hr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def answer(**more: Any) -> Answer:
    tokens = tuple(Token(i, text, -0.3, (Alternative(i, text, -0.3), Alternative(9, "0.60", -2.0))) for i, text in
                   enumerate(["a ", "box ", "[0.10,0.20,", "0.50", ",0.70]"]))  # fmt: skip
    base: dict[str, Any] = {
        "text": "a box [0.10,0.20,0.50,0.70]",
        "boxes": (Box(0.1, 0.2, 0.5, 0.7),),
        "phrases": ("a box",),
        "parse": "ok",
        "tokens": tokens,
        "prompt": Prompt(("<image>", "Where?\n"), (4118, -200, -200, 10494, 5), "image_first"),
        "stop_reason": "end",
        "timings": Timings(1, 2, 3, 7, (4.0, 5.0, 6.0, 7.0), 29, 180, "measure"),
        "memory": Memory(10_000_000, 9_000, 9_000, 0),
        "checkpoint": "tiny-pythia-vl",
        "image_size": 112,
    }
    return Answer(**{**base, **more})


def run_of(left: Answer | None = None, right: Answer | None = None, **more: Any) -> Run:
    pictures = Picture.of(open_image(png()), png())
    sides = {}
    for side, own in zip(SIDES, (left or answer(), right or answer(checkpoint="tiny-mamba-vl")), strict=True):
        sides[side] = SideRun(Side(own.checkpoint), "", prompt=own.prompt, answer=own)
    return Run(more.pop("request", Request("grounded_captioning")), pictures, sides, **more)


def test_everything_is_escaped_everywhere() -> None:
    evil = answer(
        text=EVIL, boxes=(), phrases=(), checkpoint=EVIL, dtype=EVIL, device=EVIL, revision=EVIL,
        tokens=(Token(1, EVIL, -0.1, (Alternative(1, EVIL, -0.1),)),), prompt=Prompt((EVIL,), (1,), "image_first"),
    )  # fmt: skip
    boxed = answer(phrases=(EVIL,), checkpoint=EVIL)
    failed = Answer(error=EVIL, stop_reason=EVIL, checkpoint=EVIL)
    for left, right in ((evil, boxed), (failed, evil)):
        run = run_of(left, right, request=Request("vqa", EVIL), references=(EVIL,))
        shown = [view(run, side) for view in (cards.card, tokens.tokens_view) for side in SIDES]
        shown += [side_picture(run, side, EVIL) for side in SIDES] + [cards.scoreboard(run), cards.heading(run)]
        shown += [together.together(run), figures.charts(run), figures.figures_table(run), tokens.prompt_view(run)]
        shown += [cards.history_view([run], run.id), together.three_view([run]), cards.message(EVIL, "error")]
        shown += [scores_table(EVIL, EVIL)]
        for markup in shown:
            for tag, attributes in Tags(markup).seen:
                assert not any(name.startswith("on") for name in attributes), (tag, attributes)
                assert tag != "img" or attributes["src"].startswith("data:image/"), attributes
            assert "\x00" not in markup and "\x1b" not in markup


def test_the_builder_refuses_scripts() -> None:
    with pytest.raises(ValueError, match="script"):
        el("div", onclick="alert(1)")
    with pytest.raises(ValueError, match="address"):
        el("a", "x", href="javascript:alert(1)")
    assert (
        el("p", "<b>", Safe("<i></i>"), None, ["x", "&"], class_='a"b')
        == '<p class="a&quot;b">&lt;b&gt;<i></i>x&amp;</p>'
    )
    assert join(["a", "b"], " & ") == "a &amp; b"


@pytest.mark.parametrize(("value", "shown"), [(8.44, "8.4 ms"), (123.4, "123 ms"), (1234, "1.2 s"), (65_000, "65 s")])
def test_durations(value: float, shown: str) -> None:
    assert milliseconds(value) == shown


def test_sizes_and_numbers() -> None:
    assert [format_bytes(v) for v in (900, 9_040, 86_000, 12.4e6, 310e6, 2.44e9, 14.31e9)] == [
        "900 B", "9.0 KB", "86 KB", "12 MB", "310 MB", "2.4 GB", "14.3 GB",
    ]  # fmt: skip
    assert number(3.14159, 2) == "3.14" and number(12345) == "12,345"


def test_phrases_and_boxes_share_number_and_colour() -> None:
    two = answer(
        tokens=(), text="||a red square [0.1,0.2,0.5,0.7]|| near ||a disc [0.6,0.5,0.9,0.8]||.",
        boxes=(Box(0.1, 0.2, 0.5, 0.7), Box(0.6, 0.5, 0.9, 0.8)), phrases=("a red square", "a disc"),
    )  # fmt: skip
    run = run_of(two)
    seen = Tags(cards.card(run, "left")).seen
    marks = [a for t, a in seen if t == "mark"]
    boxes = [a for _, a in Tags(side_picture(run, "left", "Left")).seen if "vl-answer-box" in (a.get("class") or "")]
    assert [m["data-colour"] for m in marks] == [b["data-colour"] for b in boxes] == ["0", "1"]
    assert "||" not in cards.card(run, "left")


def test_unparseable_is_said_as_such_and_wrong_is_not() -> None:
    run = run_of(answer(boxes=(), parse="unparseable", text="somewhere"), request=Request("grounding", "x"))
    assert "Unparseable" in cards.card(run, "left") and "Unparseable" not in cards.card(run, "right")


def test_overlap_ceiling_and_line() -> None:
    run = run_of(
        right=answer(boxes=(), parse="unparseable"),
        truth=(Box(0.1, 0.2, 0.505, 0.7),),
        request=Request("grounding", "x"),
    )
    assert "reaches 0.99 at most" in together.together(run)
    assert "✓ IoU 0.99" in words(cards.card(run, "left")) and "✗ no box" in cards.card(run, "right")
    assert "vl-truth" in overlay(run)


def test_several_true_boxes_are_counted_one_by_one() -> None:
    truth = (Box(0.1, 0.2, 0.5, 0.7), Box(0.6, 0.6, 0.9, 0.9))
    run = run_of(truth=truth)
    assert "≈ 1 of 2 boxes" in cards.card(run, "left")


def test_alternative_boxes_replace_one_token() -> None:
    found = alternative_boxes(answer())
    assert [(index, box) for index, box, _ in found] == [(3, Box(0.1, 0.2, 0.6, 0.7))]
    assert found[0][2] == pytest.approx(math.exp(-2.0))


def test_the_least_probable_token_is_the_one_to_open() -> None:
    sure = [Token(i, "x", logprob) for i, logprob in enumerate((-0.1, -0.9, -0.9, 0.0))]
    run = run_of(answer(tokens=tuple(sure)), answer(tokens=(Token(1, "x", 0.0), Token(2, "y", 0.0))))
    assert 'data-least="1"' in tokens.tokens_view(run, "left")
    unknown = tokens.tokens_view(run, "right")
    assert "data-least" not in unknown and "Choose a token" in unknown  # no probability was stored
    beyond = [*[Token(i, "x", -0.1) for i in range(display_limits.TOKENS)], Token(0, "y", -3.0)]
    assert tokens.least_probable(beyond[: display_limits.TOKENS]) == 0
    run = run_of(answer(tokens=tuple(beyond)))
    assert 'data-least="0"' in tokens.tokens_view(run, "left")  # the one that is drawn


def test_a_side_without_tokens_says_why() -> None:
    stopped = answer(text="", tokens=(), boxes=(), phrases=(), parse="unparseable", stop_reason="cancelled")
    run = run_of(stopped, Answer(error="cut off", stop_reason="error"))
    assert "No token." in tokens.tokens_view(run, "left")
    assert "No token: it failed." in tokens.tokens_view(run, "right")
    assert "Stopped<" in cards.card(run, "left") and "partial answer" not in cards.card(run, "left")
    run.sides["left"].answer = None
    assert "Tokens: after the answer." in tokens.tokens_view(run, "left")
    spaces = run_of(answer(tokens=(Token(1, "\t ", -0.1), Token(2, "\n", -0.1))))
    assert ">⇥·</button>" in tokens.tokens_view(spaces, "left") and ">↵</button>" in tokens.tokens_view(spaces, "left")


def test_figures_read_as_measured_and_race_is_marked() -> None:
    run = run_of()
    shown = figures.figures_table(run)
    assert "5.5 / 6.8 / 7.0 ms" in shown and "5 + 5" in shown and "9.0 KB cache" in shown and "9.0 KB state" in shown
    assert "contended" not in shown and "contended" in figures.figures_table(run_of(mode="race"))


def test_a_side_without_figures_has_dashes_not_zeros() -> None:
    never = answer(tokens=(), timings=Timings(), memory=Memory(), stop_reason="cancelled")
    assert "<td>0" not in figures.figures_table(run_of(never)) and "7.0 ms" in figures.figures_table(run_of(never))
    early = answer(tokens=(), timings=Timings(1.0, 20.0, total_ms=21.0), stop_reason="cancelled")
    shown = figures.figures_table(run_of(early))
    assert "<td>–</td><td>7.0 ms</td>" in shown and "<td>20.0 ms</td>" in shown


def test_percentiles() -> None:
    assert Timings(token_ms=(4.0, 1.0, 3.0, 2.0)).token_percentile(50) == 2.5
    assert Timings(token_ms=(5.0,)).token_percentile(95) == 5.0
    with pytest.raises(ValueError, match="no gap"):
        Timings().token_percentile(50)
    shown = answers_table({"": answer()})  # the command line's are the page's
    assert "5.5 ms (median)" in shown and "6.8 ms, 7.0 ms" in shown


def test_ids_fold_the_image() -> None:
    assert tokens._ids((4118, -200, -200, 10494, -200, 7)) == "4118 [image ×2] 10494 [image ×1] 7"


def test_charts_hold_both_sides_on_one_axis() -> None:
    answers = {"left": answer(), "right": answer(checkpoint="tiny-mamba-vl")}
    tags = Tags(charts.latency_chart({side: own.timings.token_ms for side, own in answers.items()})).seen
    lines = [a for t, a in tags if t == "polyline"]
    assert [line["data-side"] for line in lines] == ["left", "right"] and lines[0]["points"] == lines[1]["points"]
    curves = memory_curves(answers)
    assert curves["left"][0] == (0.0, 0.0) and curves["right"][0] == (0.0, 9000.0)  # a cache grows, a state does not
    memory = Tags(charts.memory_chart(answers, curves)).seen
    assert sum(t == "circle" for t, _ in memory) == 2 and sum(t == "polyline" for t, _ in memory) == 2
    traced = answer(memory=Memory(1, 9_000, 9_000, 0, (5_000, 6_000, 7_000, 8_000, 9_000)))
    measured = Tags(charts.memory_chart({"left": traced}, memory_curves({"left": traced}))).seen
    assert [a["class"] for t, a in measured if t == "polyline"] == ["vl-line vl-dash", "vl-line vl-measured"]
    assert "no second token" in charts.latency_chart({"left": (), "right": ()})
    assert "preparing" not in charts.first_token_bars({"left": None})


def test_published_scores_beside_each_other_with_doubt_and_source() -> None:
    shown = scores_table("finetuned_pythiavl_1b", "finetuned_mambavl_790m")
    assert "45.36" in shown and "57.97" in shown and "vl-doubt" in shown and "README" in shown
    assert "Nothing is known" in scores_table("someone/theirs", "tiny-mamba-vl")


def test_the_embedded_pairs_scores_are_those_of_its_cards() -> None:
    cells = re.findall(r"<(?:td|th)[^>]*>(.*?)</t[dh]>", scores_table("tiny-mamba-vl", "tiny-pythia-vl"))
    at = next(number for number, cell in enumerate(cells) if "Locate" in cell)
    shown = [re.sub("<.*?>", "", cell) for cell in cells[at + 1 : at + 4]]
    assert shown == ["0.82 0.79 to 0.85", "0.96 0.95 to 0.97", "−0.14"]
    card = (CHECKPOINTS / "tiny-mamba-vl" / "README.md").read_text(encoding="utf-8")
    assert "| 0.96 [0.95, 0.97] | 0.80 | 0.82 [0.79, 0.85] |" in card


@pytest.mark.parametrize("text", ["[]", "{}", '{"scenes": 5, "main": ["vqa"], "sides": []}', "[" * 100_000, "\ufffd"])
def test_scores_of_another_shape_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    from vlcompare.runtime.loading import registry
    from vlcompare.ui import score_tables

    for name in ("tiny-pythia-vl", "tiny-mamba-vl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(registry, "CHECKPOINTS", tmp_path)
    assert "Nothing is known" in score_tables.scores_table("tiny-pythia-vl", "tiny-mamba-vl")


def test_names_are_not_guessed() -> None:
    assert name_of("tiny-mamba-vl").architecture.startswith("State-space")
    assert name_of("someone/their-mamba").architecture == ""
    assert name_of("/srv/models/mine").title == "mine"


def test_a_time_that_both_sides_share_is_shown_as_shared() -> None:
    own = Answer(timings=Timings(image_ms=1.0, vision_ms=8.0, prefill_ms=4.0, ttft_ms=14.0))
    shared = replace(own, timings=replace(own.timings, shared_ms=9.0))
    known = replace(own, timings=replace(own.timings, image_ms=0.0, vision_ms=0.0, known_positions=601))
    assert "encoded once" in charts.first_token_bars({"left": own, "right": shared})
    assert "encoded once" not in charts.first_token_bars({"left": own, "right": own})
    assert "known from an earlier question" in charts.first_token_bars({"left": known, "right": known})


def test_a_letter_is_shown_with_the_answer_that_it_names() -> None:
    request = Request("multiple_choice", "What is it?", choices=("a cup", "a <b>fork</b>"))
    known, other = (run_of(answer(text=text, boxes=(), tokens=()), request=request) for text in "BZ")
    assert "B · a &lt;b&gt;fork&lt;/b&gt;" in words(cards.card(known, "left"))
    assert " · a" not in words(cards.card(other, "left"))
    boxes = (Box(0.1, 0.1, 0.2, 0.2), Box(0.5, 0.5, 0.6, 0.6))
    chosen = run_of(
        answer(text="B", boxes=boxes[1:]), request=Request("pointing", "Which?", choices=boxes), truth=boxes[1:]
    )
    assert '<span class="vl-badge">B</span>' in side_picture(chosen, "left", "one").partition("vl-answer-box")[2]
    assert "0.5 or more is right" not in together.together(chosen)


def test_a_conversation_with_models_that_never_read_one_is_marked() -> None:
    marked = [
        "never read a conversation" in cards.heading(run)
        for run in (run_of(follow_up="continue"), run_of(follow_up="anew"), run_of())
    ]
    published = run_of(answer(checkpoint="a/b"), answer(checkpoint="a/c"), follow_up="continue")
    assert marked == [True, False, False] and "never read" not in cards.heading(published)


def test_times_of_a_batch_are_not_shown_as_one_answers() -> None:
    alone, batched = (run_of(answer(timings=replace(answer().timings, mode=mode))) for mode in ("measure", "batch"))
    shown = [words(cards.card(run, "left")) for run in (alone, batched)]
    assert "first token–" not in shown[0] and "first token–" in shown[1] and "tokens/s–" in shown[1]


def test_what_had_streamed_is_counted_where_a_side_failed_later() -> None:
    run = run_of()
    part = run.sides["left"]
    part.steps = [Step(i, i, "a", -0.1, (), 0.01) for i in range(10)]
    part.answer = Answer(text="a" * 10, stop_reason="error", error="Lost.")
    assert words(cards.card(run, "left")).endswith("tokens10")
