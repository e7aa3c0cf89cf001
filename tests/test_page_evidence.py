"""What the answers rest on, in the real page over the embedded pair: maps of both sides, stopped, exchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import choose, compare, idle, pick, said, settled, text, visits
from inspect_world import write_run
from ui_fakes import words

from vlcompare.evidence import EvidenceMap, Layout
from vlcompare.runtime import blanking
from vlcompare.types import Answer, Box, Request, Side, Token
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.panels.evidence import can_explain, evidence_view, explain_shown
from vlcompare.ui.compare.session import CompareSession, Picture, Run, SideRun
from vlcompare.ui.examples import load_examples
from vlcompare.ui.settings import AppSettings

GROUNDING = next(example.id for example in load_examples() if example.task == "grounding")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    from vlcompare.ui.page import build_page, launch, real_handlers

    settings = AppSettings(data=tmp_path_factory.mktemp("evidence"))
    page = build_page(settings, real_handlers(settings))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address)
    page.close()


@pytest.mark.browser
def test_a_map_is_drawn_for_both_sides_of_an_example(app: SimpleNamespace, browser: Any) -> None:
    with visits(browser, app.address) as visit:
        page = visit()
        pick(page, GROUNDING)
        assert not page.locator("#vl-explain").is_visible(), "recorded answers: nothing can be measured"
        compare(page)
        said(page, "#vl-evidence", "One block of the picture")
        page.locator("#vl-explain").click()
        said(page, "#vl-evidence", "98 of 98 blocks")
        idle(page)
        assert page.locator("#vl-evidence .vl-evidence-block").count() == 98
        assert page.locator("#vl-evidence .vl-evidence-largest").count() == 2
        assert text(page, "#vl-evidence").count("the largest fall is in it") >= 2
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            settled(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        names = page.locator("#vl-evidence figcaption").all_inner_texts()
        page.locator("#vl-swap").click()
        page.wait_for_function(f"document.querySelector('#vl-evidence figcaption').innerText === {names[1]!r}")


@pytest.mark.browser
def test_stop_keeps_what_was_measured(app: SimpleNamespace, browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = blanking.explain_batches

    def until_stopped(*given: Any, cancel: Any, **how: Any) -> Iterator[EvidenceMap]:
        for number, found in enumerate(real(*given, cancel=cancel, batch_size=7, **how)):
            yield found
            if number == 2:
                cancel.wait(600)

    monkeypatch.setattr(blanking, "explain_batches", until_stopped)
    with visits(browser, app.address) as visit:
        page = visit()
        pick(page, GROUNDING)
        compare(page)
        page.locator("#vl-explain").click()
        said(page, "#vl-evidence", "14 blocks measured")
        page.locator("#vl-stop").click()
        said(page, "#vl-evidence", "14 of 49 blocks")
        idle(page)
        assert "Stopped before all blocks" in text(page, "#vl-evidence")
        monkeypatch.setattr(blanking, "explain_batches", real)
        page.locator("#vl-explain").click()
        said(page, "#vl-evidence", "98 of 98 blocks")


def run_of(**how: Any) -> Run:
    answer = Answer("here", tokens=(Token(5, "here", -1.0),), stop_reason="end")
    sides = {side: SideRun(Side(name), answer=answer) for side, name in (("left", "one"), ("right", "two"))}
    return Run(Request("grounding", "the car"), Picture(b"", b"", 4, 3), sides, **how)


def test_what_cannot_be_explained_offers_nothing() -> None:
    assert can_explain(run_of())
    assert not can_explain(run_of(blind=True)), "figures would tell which model it is"
    assert not can_explain(run_of(follow_up="continue")), "its prompt holds more than the question"
    assert not can_explain(None)
    session = CompareSession()
    (page,) = explain_shown(Handlers(AppSettings(), None), session)
    assert "press Compare first" in words(page["message"])


def test_a_failure_is_one_sentence_and_leaves_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    session, run = CompareSession(), run_of()
    session.show(run)
    *_, last = explain_shown(Handlers(AppSettings(), None, None), session)  # without a pool
    assert "The answers were not explained" in words(last["message"])
    assert session.shown is run and session.cancel is None and session.finished.is_set()


def test_maps_go_along_when_the_sides_are_exchanged() -> None:
    run = run_of(truth=(Box(0, 0, 0.5, 1),))
    run.evidence = {
        side: EvidenceMap(falls, Layout(1, 2, 1), "mean", -1.0, "<b>", checkpoint=side)
        for side, falls in (("left", (2.0, 0.0)), ("right", (0.0, None)))
    }
    said = words(evidence_view(run))
    assert "3 of 4 blocks" in said and "2.00 inside, 0.00 outside; the largest fall is in it" in said
    run.swap()
    assert run.evidence["right"].checkpoint == "left"
    run.evidence.pop("left")
    run.swap()
    assert list(run.evidence) == ["left"]


# ---- stored by an evaluation, on the Inspect tab


def explained_run(folder: Path) -> Path:
    """A run in which three answers a side have a map: of two blocks, of a side that could not be measured, of many."""
    run = write_run(folder)
    path = run / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    place = {"inside": 2.0, "outside": 0.0, "difference": 2.0, "largest_inside": True, "chance": 0.5}
    many = {"grid": [60, 60], "block": 1, "falls": [0.1] * 3600}
    for row in rows:
        here = {"blank": "mean", "grid": [1, 2], "block": 1, "logprob": -1.25, "tokens": 3, "falls": [2.0, -0.5]}
        if row["id"] in ("g0", "g1"):
            inside = row["side"] == "left" or row["id"] == "g0"
            row["evidence_map"] = {**here, "true_place": {**place, "largest_inside": inside}}
            if not inside:
                row["evidence_map"]["falls"] = [-0.5, 1.0]
        elif row["id"] == "s0":
            row["evidence_map"] = {**here, **many} if row["side"] == "left" else {"error": "There was <b>no</b> room."}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    from vlcompare.ui.page import build_page, launch, real_handlers

    root = tmp_path_factory.mktemp("inspected")
    settings = AppSettings(data=root / "data-folder")
    page = build_page(settings, real_handlers(settings), runs=[explained_run(root / "explained")])
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address)
    page.close()


def opened(page: Any, sample: str) -> None:
    page.locator(f"#vi-table tr:has-text('{sample}') .vi-open").first.click()
    said(page, "#vi-sample .vi-facts", f"^{sample} ")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, pytest.param(390, marks=pytest.mark.slow)])
def test_inspect_draws_the_stored_maps_beside_each_other(inspected: SimpleNamespace, browser: Any, width: int) -> None:
    with visits(browser, inspected.address, lambda page, _: page.wait_for_selector("#vi-table .vi-rows")) as visit:
        page = visit(width=width)
        opened(page, "g0")
        said(page, "#vi-sample .vi-evidence", "4 of 4 blocks of both sides, one scale for both")
        figures = page.locator(".vi-evidence .vl-figure")
        assert figures.count() == 2 and page.locator(".vi-evidence .vl-evidence-block").count() == 4
        assert page.locator(".vi-evidence .vl-truth").count() == 2
        # the true box is [.10, .15, .45, .60]: all of it is in the left half
        for number in (0, 1):
            said_here = figures.nth(number).inner_text()
            assert "true box: a block's mean fall 2.00 inside" in said_here and "the largest fall is in it" in said_here
        settled(page)
        left, right = (figures.nth(number).bounding_box() for number in (0, 1))
        assert abs(left["y"] - right["y"]) < 2 and right["x"] > left["x"] + left["width"] - 1
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#vi-next").click()
        said(page, "#vi-sample .vi-facts", "^s0 ")
        said(page, "#vi-sample .vi-evidence", "3,600 blocks; at most 1,024[^]*There was <b>no</b> room")
        page.locator("#vi-next").click()
        said(page, "#vi-sample .vi-facts", "^v0 ")
        assert page.locator(".vi-evidence").count() == 0


@pytest.mark.browser
def test_samples_are_sliced_by_where_a_side_looked_and_the_maps_go_to_compare(
    inspected: SimpleNamespace, browser: Any
) -> None:
    with visits(browser, inspected.address, lambda page, _: page.wait_for_selector("#vi-table .vi-rows")) as visit:
        page = visit()
        choose(page, "#vi-dimension", "Right looked at the target")
        page.locator("#vi-slices .vi-link", has_text="no").click()
        said(page, "#vi-chips", "^1 of 24 samples")
        page.locator("#vi-table .vi-open").first.click()
        said(page, "#vi-sample .vi-facts", "^g1 ")
        said(page, ".vi-evidence .vl-figure[data-side=right]", "the largest fall is elsewhere")
        page.locator("#vi-ask").click()
        said(page, "#vl-evidence", "4 of 4 blocks")
        assert not page.locator("#vl-explain").is_visible(), "stored answers: nothing is measured here"


def test_stored_maps_are_hidden_from_a_blind_run() -> None:
    run = run_of(blind=True)
    run.evidence = {"left": EvidenceMap((1.0,), Layout(1, 1, 1), "mean", -1.0, "<b>")}
    assert "blocks" not in words(evidence_view(run))
