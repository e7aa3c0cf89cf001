"""What the answers rest on, in the real page over the embedded pair: maps of both sides, stopped, exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import compare, idle, pick, said, settled, text, visits
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
@pytest.mark.parametrize("width", [1440, 390])
def test_a_map_is_drawn_for_both_sides_of_an_example(app: SimpleNamespace, browser: Any, width: int) -> None:
    with visits(browser, app.address) as visit:
        page = visit(width=width)
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
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        names = page.locator("#vl-evidence figcaption").all_inner_texts()
        page.locator("#vl-swap").click()
        page.wait_for_function(f"document.querySelector('#vl-evidence figcaption').innerText === {names[1]!r}")


@pytest.mark.browser
def test_stop_keeps_what_was_measured(
    app: SimpleNamespace, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = blanking.explain_batches

    def until_stopped(*given: Any, cancel: Any, **how: Any) -> Iterator[EvidenceMap]:
        for number, found in enumerate(real(*given, cancel=cancel, batch_size=7, **how)):
            yield found
            if number == 2:
                cancel.wait(60)

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
