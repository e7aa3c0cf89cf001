"""Verdicts on the page, and whether what is shown belongs to what is set: as rules, without a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ui_fakes import FakeCompare, png, words, write_examples

from vlcompare.runtime.image import open_image
from vlcompare.types import SIDES, Answer, Box, Request, Side
from vlcompare.ui import examples
from vlcompare.ui.compare import cards, views
from vlcompare.ui.compare.belonging import PARTS, banner, differences, settings_line
from vlcompare.ui.compare.example_questions import example_form, recorded_run
from vlcompare.ui.compare.forms import AskForm
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.session import CompareSession, Picture, Run, SideRun
from vlcompare.ui.compare.verdict import verdict
from vlcompare.ui.examples import load_examples
from vlcompare.ui.settings import AppSettings

PAIR = {"left": Side("tiny-pythia-vl"), "right": Side("tiny-mamba-vl")}
FIND = AskForm("grounding", "the large red square")
SHOWN = Picture.of(open_image(png()), png())
SETTINGS = AppSettings()


def run_of(request: Request, *answers: Answer, **more: Any) -> Run:
    sides = {side: SideRun(PAIR[side], answer=answer) for side, answer in zip(SIDES, answers, strict=False)}
    return Run(request, SHOWN, sides, **more)


def test_recorded_answers_are_judged_as_the_evaluation_judged_them() -> None:
    rows = {row["id"]: row["right"] for row in json.loads((examples.FOLDER / "examples.json").read_text())["examples"]}
    for example in load_examples():
        run = recorded_run(example, SHOWN, PAIR)
        found = {side: verdict(run, side) for side in SIDES}
        assert [side for side, one in found.items() if one and one.kind != "bad"] == rows[example.id], example.id
        assert all(found.values())


def test_captions_are_right_by_their_objects_and_not_by_their_words() -> None:
    things = ({"kind": "boat", "color": "black"}, {"kind": "flower", "color": "black"})
    said = Answer("A black flower and a black boat.", stop_reason="end"), Answer("A red boat.", stop_reason="end")
    run = run_of(Request("captioning"), *said, references=("a black boat and a black flower.",), objects=things)
    assert [one.kind for one in (verdict(run, side) for side in SIDES) if one] == ["good", "bad"]
    assert verdict(replace(run, objects=()), "left") is None  # no objects are known: nothing is claimed


@pytest.mark.parametrize("reason", ["cancelled", "deadline"])
def test_an_answer_that_was_cut_short_is_not_judged(reason: str) -> None:
    part = Answer("[0.1", parse="unparseable", stop_reason=reason)
    run = run_of(Request("grounding", "x"), part, part, truth=(Box(0.1, 0.1, 0.5, 0.5),))
    shown = cards.card(run, "left") + cards.scoreboard(run)
    assert verdict(run, "left") is None and "Unparseable" not in shown and "partial answer kept" in shown
    whole = replace(part, stop_reason="end")
    run = run_of(Request("grounding", "x"), whole, whole, truth=run.truth)
    assert "✗ no box" in cards.card(run, "left") and "Unparseable" in cards.card(run, "left")


def test_nearly_right_names_what_was_expected() -> None:
    answers = Answer("621", stop_reason="end"), Answer("3", stop_reason="end")
    run = run_of(Request("document_vqa", "?"), *answers, references=("821",))
    assert [one.text for one in (verdict(run, side) for side in SIDES) if one] == [
        "≈ nearly: expected 821",
        "✗ expected 821",
    ]


# ---- what is shown belongs to what is set

CHANGES: dict[str, tuple[Any, ...]] = {
    "model": ({"left": Side("x/y")}, {}, "models"),
    "quantization": ({"right": Side("tiny-mamba-vl", "nf4")}, {}, "models"),
    "decoding": ({"left": Side("tiny-pythia-vl", temperature=0.7)}, {}, "models"),
    "resolution": ({"left": Side("tiny-pythia-vl", image_size=224)}, {}, "models"),
    "order": ({"left": Side("tiny-pythia-vl", prompt_order="instruction_first")}, {}, "models"),
    "task": ({}, {"task": "vqa"}, "question"),
    "text": ({}, {"text": "the disc"}, "question"),
    "nothing asked": ({}, {"text": ""}, "question"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_setting_is_part_of_what_answers_belong_to(change: str) -> None:
    sides, ask, part = CHANGES[change]
    run = run_of(Request("grounding", "the large red square"))
    run.sides = {side: SideRun(PAIR[side]) for side in SIDES}
    (picture,) = SHOWN.hashes
    assert differences(run, picture, FIND, PAIR, SETTINGS) == ()
    assert differences(run, picture, replace(FIND, **ask), {**PAIR, **sides}, SETTINGS) == (part,)


def test_mode_and_fields_of_other_tasks_are_no_part_of_it() -> None:
    run = run_of(Request("grounding", "the large red square"))
    run.sides = {side: SideRun(PAIR[side]) for side in SIDES}
    (picture,) = SHOWN.hashes
    same = replace(FIND, choices="a\nb", box="0, 0, 1, 1", mode="race", text=" the large red square ")
    defaults = {side: replace(own, temperature=0, top_p=1, top_k=0, seed=0, image_size=0) for side, own in PAIR.items()}
    assert differences(run, picture, same, defaults, SETTINGS) == ()
    assert differences(run, None, same, defaults, SETTINGS) == ("picture",)


def test_examples_belong_to_their_own_questions() -> None:
    for example in load_examples():
        picture = Picture.of(open_image(example.image.read_bytes()), example.image.read_bytes())
        run = recorded_run(example, picture, PAIR)
        (own,) = picture.hashes
        assert differences(run, own, example_form(example), PAIR, SETTINGS) == (), example.id


def test_a_blind_run_belongs_to_its_pair_in_any_order_and_tells_no_name() -> None:
    run = run_of(Request("grounding", "the large red square"), blind=True)
    run.sides = {side: SideRun(PAIR[other]) for side, other in zip(SIDES, reversed(SIDES), strict=True)}
    (picture,) = SHOWN.hashes
    assert differences(run, picture, FIND, PAIR, SETTINGS) == ()
    told = banner(run, PARTS)
    assert "Tiny" not in told and "without names" in told
    run.voted = "tie"
    assert differences(run, picture, FIND, PAIR, SETTINGS) == ("models",)
    assert "Tiny Mamba-VL and Tiny Pythia-VL" in banner(run, PARTS)


def test_the_line_of_a_side_says_what_is_not_as_usual() -> None:
    assert settings_line(PAIR["left"]) == "Tiny Pythia-VL"
    other = Side("someone/their-model", "nf4", "instruction_first", 224, temperature=0.5)
    assert settings_line(other) == "someone/their-model · NF4 · instruction first · 224 pixels · temperature 0.5"


# ---- the sides exchanged


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handlers:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(examples, "FOLDER", write_examples(tmp_path / "examples"))
    return Handlers(AppSettings(data=tmp_path), FakeCompare(), None, open_image)


def test_swapping_takes_answers_verdicts_votes_and_caches_along(handlers: Handlers, tmp_path: Path) -> None:
    class Kept:
        def close(self) -> None: ...

    caches = {side: Kept() for side in SIDES}
    own = replace(handlers, engine_sessions=lambda run: dict(caches))
    session = CompareSession()
    sides = {**PAIR, "left": Side("broken/one")}
    for _ in own.ask(session, str(tmp_path / "examples" / "scene.png"), FIND, sides, example="find"):
        pass
    run = session.history[0]
    run.voted = "left"
    page = own.swap(session)
    assert "cut off" in page["right_card"] and "✓ IoU 0.89" in words(page["left_card"])
    assert session.engines == {"left": caches["right"], "right": caches["left"]} and run.voted == "right"
    assert run.settings["left"].checkpoint == "tiny-mamba-vl" and "Tiny Mamba-VL" in page["left_picture"]
    own.swap(session)
    assert run.settings["left"].checkpoint == "broken/one" and session.engines == caches


def test_swapping_while_they_stream_keeps_each_answer_with_its_model(handlers: Handlers, tmp_path: Path) -> None:
    session = CompareSession()
    ask = AskForm("chat", "go")
    pages = handlers.ask(session, str(tmp_path / "examples" / "scene.png"), ask, PAIR)
    shown: dict[str, Any] = dict(next(pages))
    shown |= next(pages)
    shown |= handlers.swap(session)
    for page in pages:
        shown |= page
        for card in (shown["left_card"], shown["right_card"]):  # whatever has come in stands under its own model
            assert ("said tiny-pythia-vl" not in card) or "Tiny Pythia-VL" in card
            assert ("said tiny-mamba-vl" not in card) or "Tiny Mamba-VL" in card
    assert "said tiny-mamba-vl" in shown["left_card"] and "said tiny-pythia-vl" in shown["right_card"]
    assert session.shown and views.whole(session, session.shown)["left_card"] == shown["left_card"]


# ---- colours


def test_colours_of_numbered_boxes_are_none_of_the_sides() -> None:
    """On a picture: at least 35 degrees of hue from left and right, or grey."""
    import colorsys
    import re

    from vlcompare.ui.compare.picture import PALETTE
    from vlcompare.ui.theme import FOLDER

    sheet = (FOLDER / "style.css").read_text(encoding="utf-8")
    stage = sheet[sheet.index("\n.vl-stage {") :]
    stage = stage[: stage.index("}")]
    found = {name: bytes.fromhex(value) for name, value in re.findall(r"--(left|right|c\d): #([0-9a-f]{6})", stage)}
    hues = {name: colorsys.rgb_to_hsv(*(part / 255 for part in rgb)) for name, rgb in found.items()}
    numbered = [hues[f"c{index}"] for index in range(PALETTE)]
    assert f"c{PALETTE}" not in hues
    for side in ("left", "right"):
        for hue, saturation, _ in numbered:
            apart = abs(hue - hues[side][0])
            assert saturation < 0.25 or 360 * min(apart, 1 - apart) >= 30, (side, hue)


def test_no_condition_of_the_stylesheets_is_a_list() -> None:
    """gradio puts its own classes in front of each part of a list: the second of `:has(p, .mine)` matches nothing."""
    import re

    from vlcompare.ui.theme import FOLDER

    sheets = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.css")}
    assert len(sheets) > 3
    assert {name: found for name, sheet in sheets.items() if (found := re.findall(r":has\([^()]*,[^{]*", sheet))} == {}
