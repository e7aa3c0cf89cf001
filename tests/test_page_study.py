"""The page's Study tab in the browser: the lab by pointer and keyboard, own rows; and what its endpoint refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import said, visits
from page_world import serving

from vlcompare.evaluate.published_gaps import published_gaps, sentences
from vlcompare.study.opened import SHIPPED, open_study, study_of
from vlcompare.study.seen import seen, state
from vlcompare.study.tables import for_lab
from vlcompare.ui.study import lab, views
from vlcompare.ui.study.session import Shelf

ROWS = (SHIPPED / "cpu" / "rows.jsonl").read_text()
PLAIN = {"sequence": [5, 7, 9], "query": 7, "order": "query_last"}
NAMED = min(row["length"] for row in for_lab(open_study(SHIPPED / "cpu").groups) if row["order"] == "query_last")


def test_a_request_is_answered_for_itself_alone() -> None:
    first, second = lab.ask(PLAIN), lab.ask({**PLAIN, "query": 9, "order": "query_first"})
    assert first["named"] == NAMED and first["known"] == 80 and set(first["sides"]) == {"pythia", "mamba", "hybrid"}
    assert all(len(side["shares"]) == 3 for side in second["sides"].values())
    assert lab.ask(PLAIN) == first


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, "list of symbols"),
        ("x", "list of symbols"),
        ({**PLAIN, "sequence": [5, "7"]}, "list of symbols"),
        ({**PLAIN, "sequence": [5, True, 7]}, "list of symbols"),
        ({**PLAIN, "sequence": list(range(5000))}, "2 to 80"),
        ({**PLAIN, "sequence": [5, 7, 10**30]}, "0 to 79"),
        ({**PLAIN, "query": 6}, "one of the sequence"),
        ({**PLAIN, "query": "7"}, "one of the sequence"),
        ({**PLAIN, "order": ["query_last"]}, "query_first or query_last"),
    ],
)
def test_requests_that_are_refused(request_: Any, message: str) -> None:
    assert message in lab.ask(request_)["error"]


def test_a_round_is_bounded() -> None:
    for request in (None, {"length": 10**9, "order": "query_last", "seed": 1}, {"length": 10, "order": "query_last"}):
        assert "vl-warn" in lab.round_of(request)
    request = {"length": 2 * NAMED, "order": "query_last", "seed": 3}
    drawn = lab.round_of(request)
    assert "of 200" in drawn and f"first {NAMED} positions" in drawn and drawn == lab.round_of(request)


def test_rows_that_are_damaged_become_a_sentence_each() -> None:
    lines = ROWS.splitlines()[:3]
    row = json.loads(lines[0])
    broken = [*lines, "{", json.dumps({**row, "accuracy": 7}), json.dumps({**row, "version": 9})]
    study = study_of("\n".join([*broken, ""]).encode(), "mine.jsonl")
    assert len(study.rows) == 3 and len(study.problems) == 3
    assert all(f"line {number}" in problem for number, problem in zip((4, 5, 6), study.problems, strict=True))
    shown = views.figures(study)
    assert "accuracy is out of range" in shown and "version 9" in shown


def test_rows_that_are_added_while_a_grid_trains_are_seen(tmp_path: Path) -> None:
    path, lines = tmp_path / "rows.jsonl", ROWS.splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    shelf = Shelf(tmp_path)
    assert len(shelf.study().rows) == 2 and shelf.study() is shelf.study()
    path.write_text("".join(lines[:3]))
    assert len(shelf.study().rows) == 3


def test_nothing_is_a_finding_before_its_seeds_are_there() -> None:
    study = open_study(SHIPPED / "cpu")
    assert ("unfinished" in state(study)) == study.unfinished
    row = json.loads(ROWS.splitlines()[0])

    def made(family: str, seed: int, reached: int | None) -> dict:
        return {**row, "order": "query_last", "family": family, "state_size": None if family == "pythia" else 16,
                "learning_rate": 0.001, "seed": seed, "reached": reached}  # fmt: skip

    def verdict(ours: list[int | None], theirs: list[int | None]) -> str:
        rows = [made("pythia", seed, value) for seed, value in enumerate(ours)]
        rows += [made("mamba", seed, value) for seed, value in enumerate(theirs)]
        return seen(study_of(("\n".join(map(json.dumps, rows)) + "\n").encode(), "x"))[0]

    assert "no finding yet" in verdict([1000, 2000], [3000, 4000, 5000])
    assert "Every Transformer needs fewer" in verdict([1000, 2000, 2500], [3000, 4000, None])
    assert "Every Mamba needs fewer" in verdict([None, 9000, 8000], [3000, 4000, 5000])
    assert "overlap" in verdict([1000, 2000, 3500], [3000, 4000, 5000])


def test_the_published_gap_with_and_without_the_doubtful_cell() -> None:
    gaps = published_gaps()
    for doubtful, means in ((True, [4.31, 4.57, 4.91]), (False, [7.70, 4.70, 5.14])):
        assert [round(gap, 2) for gap in gaps.means("retrieval", doubtful=doubtful)] == means
    with_it, without = sentences(gaps, "retrieval")
    assert "widens with every step" in with_it
    assert "largest at 1B, and widens from 1.4B to 2.8B alone" in without and "1.32 and 1.10 billion" in without
    textvqa = next(one for one in gaps.benchmarks if one.name == "TextVQA")
    assert [round(gap, 2) for gap in textvqa.gaps] == [-5.50, -3.76, -3.00]


# ---- in the browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with serving(tmp_path_factory.mktemp("study")) as app:
        yield app


@pytest.fixture
def visit(app: SimpleNamespace, browser: Any) -> Iterator[Any]:
    with visits(browser, app.address) as open_page:
        yield open_page


def answered(page: Any) -> None:
    """Every model has answered what is chosen now."""
    page.wait_for_function("""() => {
      const all = [...document.querySelectorAll('.vs-answer:not([hidden])')];
      return all.length && all.every((node) => node.dataset.right && !node.classList.contains('vs-old'));
    }""")


def study(page: Any) -> Any:
    page.get_by_role("tab", name="Study").click()
    answered(page)
    return page


def pointed(page: Any, family: str) -> str:
    return page.locator(f".vs-answer[data-family={family}] .vs-said").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 390])
def test_the_lab_answers_a_click_in_both_orders_and_at_length_50(visit: Any, width: int) -> None:
    page = study(visit(width=width))
    for order in ("query_first", "query_last"):
        page.locator(f"[data-order={order}]").click()
        tile = page.locator(".vs-tile[data-place='6']")
        tile.click()
        answered(page)
        assert tile.get_attribute("aria-checked") == "true"
        for family, name in (("pythia", "Transformer"), ("mamba", "Mamba"), ("hybrid", "Hybrid")):
            answer = page.locator(f".vs-answer[data-family={family}]")
            assert name in answer.inner_text() and "position" in pointed(page, family)
            at = pointed(page, family).split("position ")[1].split()[0]
            assert (answer.get_attribute("data-right") == "true") == (at == "7")
    rights = page.locator(".vs-answer[data-right=true]").count()
    said(page, ".vs-state", {0: "^None of them points", 3: "^All of them point"}.get(rights, "asked for, .* elsewhere"))
    assert page.locator(".vs-bars i").count() == 30
    page.locator("#vs-length").fill("50")
    answered(page)
    assert page.locator(".vs-tile[data-place]").count() == 50 and page.locator(".vs-unnamed").count() == 50 - NAMED
    said(page, ".vs-state", f"trained: at length {NAMED}")
    page.locator(f".vs-tile[data-place='{NAMED + 5}']").click()
    said(page, ".vs-state", f"cannot name position {NAMED + 6}")
    said(page, ".vs-state", "^None of them points")
    assert page.locator(".vs-answer[data-right=false]").count() == 3
    page.locator("[data-do=round]").click()
    said(page, "#vs-round", f"of 200[^]*first {NAMED} positions")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.browser
def test_the_lab_by_keyboard_alone(visit: Any) -> None:
    page = study(visit())
    page.locator("[data-order=query_last]").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.order") == "query_first"
    for _ in range(5):  # length, shuffle, another tile, edit, and into the tiles: one stop
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    answered(page)
    assert page.evaluate("document.activeElement.dataset.place") == "1"
    page.locator("[data-do=edit]").press("Enter")
    text = page.locator("#vs-text")
    for wrong, message in (("ba be xx", "no tile “xx”"), ("ba be ba", "stands twice"), ("ba", "2 to 80")):
        text.fill(wrong)
        text.press("Enter")
        said(page, "#vs-wrong", message)
    text.fill("ba be bi bo")
    text.press("Enter")
    answered(page)
    assert page.locator(".vs-tile[data-place]").count() == 4 and page.locator("#vs-wrong").inner_text() == ""
    assert page.locator(".vs-tile[data-place='3']").get_attribute("aria-label") == "bo, position 4"


@pytest.mark.browser
def test_own_rows_are_shown_to_one_visitor_alone(visit: Any, tmp_path: Path) -> None:
    page, other = study(visit()), study(visit())
    page.wait_for_selector("#vs-figures .vs-figure")
    said(page, "#vs-published", "Mean without RefCOCO. A")
    own = "\n".join([*ROWS.splitlines()[:2], "{", ""])
    file = {"name": "mine.jsonl", "mimeType": "application/json", "buffer": own.encode()}
    page.locator("input[type=file][accept*='jsonl']").set_input_files(file)
    said(page, "#vs-message", "mine.jsonl is shown")
    said(page, "#vs-figures", "2 trainings are finished[^]*line 3, is not a whole row")
    with page.expect_download() as download:
        page.locator("[data-pick='csv:examples_to_95']").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("task,order,length") and len(lines) >= 2
    page.locator("[data-pick='back:']").click()
    said(page, "#vs-figures", f"{len(ROWS.splitlines())} of")
    assert "mine" not in other.locator("#vs-figures").inner_text() + other.locator("#vs-message").inner_text()
