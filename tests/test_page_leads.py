"""From one picture's answers to the run that asked many such questions: the sentence, its figures, and the way there.

With the project's own examples and run, and no model: the examples' answers are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from app_world import belongs, choose_task, differs, open_settings, pick, said, settled, visits
from ui_fakes import FakeCompare

from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.table import RunTable
from vlcompare.paths import EXAMPLES
from vlcompare.types import SIDES, Side
from vlcompare.ui.compare.example_questions import recorded_run
from vlcompare.ui.compare.finding import finding_of, finding_view
from vlcompare.ui.compare.session import Picture, Run
from vlcompare.ui.examples import load_examples
from vlcompare.units import fraction

PAIR = {"left": Side("tiny-pythia-vl"), "right": Side("tiny-mamba-vl")}
TABLE = RunTable(RunFolder.open(EXAMPLES / "tiny-pair-on-scenes", read_only=True))


def run_of(task: str = "grounding") -> Run:
    example = next(example for example in load_examples(EXAMPLES) if example.task == task)
    return recorded_run(example, Picture(b"", b"", 4, 3), PAIR)


def plain(markup: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", markup))


@pytest.mark.parametrize("task", sorted({example.task for example in load_examples(EXAMPLES)} & set(TABLE.task)))
def test_the_figures_are_those_of_the_run_by_task(task: str) -> None:
    rows = np.flatnonzero(np.array(TABLE.task) == task)
    left, right = (fraction(float((TABLE.right[side][rows] == 1).mean())) for side in TABLE.sides)
    said = plain(finding_view(run_of(task)))
    assert f"On {len(rows)} such questions: Tiny Pythia-VL {left} against Tiny Mamba-VL {right} right." in said


def test_exchanged_sides_keep_their_figures() -> None:
    run = run_of()
    run.swap()
    found, before = finding_of(run), finding_of(run_of())
    assert found is not None and before is not None and found.swapped and not before.swapped
    assert [found.shares[side] for side in SIDES] == [before.shares[side] for side in reversed(SIDES)]


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "finetuned_pythiavl_1b"},
        {"checkpoint": "tiny-mamba-vl"},
        {"quantization": "int8"},
        {"prompt_order": "instruction_first"},
        {"image_size": 224},
        {"temperature": 1.0},
        {"dtype": "bfloat16"},
        {"max_new_tokens": 2},
    ],
)
def test_other_models_and_settings_are_none_of_the_runs(change: dict[str, Any]) -> None:
    run = run_of()
    run.sides["left"].settings = replace(run.sides["left"].settings, **change)
    assert finding_of(run) is None and "data-pick" not in finding_view(run)


def test_hidden_models_and_unasked_tasks_lead_nowhere() -> None:
    run = run_of()
    run.blind = True
    assert run.hidden and finding_of(run) is None
    asked = run_of()
    asked.request = replace(asked.request, task="chat")
    assert finding_of(asked) is None


def test_questions_that_the_run_does_not_ask_lead_nowhere() -> None:
    asked, followed, continued = run_of(), run_of(), run_of()
    asked.request = replace(asked.request, text="the clouds")
    followed.request = replace(followed.request, history=(("Where?", "Here."),))
    continued.follow_up = "continue"
    assert [finding_of(run) for run in (asked, followed, continued)] == [None] * 3


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    from vlcompare.runtime.image import open_image
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    settings = AppSettings(data=tmp_path_factory.mktemp("leads"))
    page = build_page(settings, Handlers(settings, FakeCompare(), None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address)
    page.close()


@pytest.fixture
def visit(app: SimpleNamespace, browser: Any) -> Iterator[Any]:
    with visits(browser, app.address) as open_page:
        yield open_page


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [pytest.param(1280, 720, marks=pytest.mark.slow), (390, 844)])
def test_one_picture_leads_to_the_run_filtered_by_its_task(visit: Any, width: int, height: int) -> None:
    page = visit(width=width, height=height)
    said(page, "#vl-finding", r"On 72 such questions: Tiny Pythia-VL \.958 against Tiny Mamba-VL \.750")
    page.locator(".vl-to-run").click()
    said(page, "#vi-headline", r"^Tiny Pythia-VL \.958 against Tiny Mamba-VL \.750 on 72 Locate samples: \+\.208")
    said(page, "#vi-chips", r"72 of 337 samples[\s\S]*Task: Locate")
    # why: slices of another kind than the one task, and the way to the study
    said(page, "#vi-slices", "medium")
    said(page, "#vi-differences", "Among all slices")
    page.locator("#vi-headline [data-tab]").click()
    page.wait_for_selector("[role=tab][aria-selected=true]:has-text('Study'):focus")
    page.get_by_role("tab", name="Inspect").click()
    # a slice that is chosen far below brings the headline, with the way to drop it, into view
    page.locator("#vi-differences .vi-link", has_text="Multiple choice").click()
    said(page, "#vi-headline", " on 40 Multiple choice samples")
    page.wait_for_function(
        "() => { const r = document.querySelector('#vi-headline .vi-chip').getBoundingClientRect();"
        " return r.top >= 0 && r.bottom <= innerHeight; }"
    )
    page.locator("#vi-headline .vi-chip").click()
    said(page, "#vi-headline", " on 337 samples")


@pytest.mark.browser
def test_the_sentence_follows_the_sides_and_is_gone_for_other_models(visit: Any) -> None:
    page = visit()
    said(page, "#vl-finding", r"Tiny Pythia-VL \.958 against Tiny Mamba-VL \.750")
    page.locator("#vl-swap").click()
    said(page, "#vl-finding", r"Tiny Mamba-VL \.750 against Tiny Pythia-VL \.958")
    page.locator(".vl-to-run").click()
    said(page, "#vi-headline", r"^Tiny Mamba-VL \.750 against Tiny Pythia-VL \.958 on 72 Locate samples: −\.208")


@pytest.mark.browser
def test_what_is_greyed_is_not_voted_on(visit: Any) -> None:
    page = visit()
    choose_task(page, "Question")
    differs(page)
    page.wait_for_selector(".vl-vote[inert]")
    assert not page.locator("#vl-finding").is_visible(), "it belongs to what is shown, which is another question's"
    page.locator(".vl-way-back").click()
    belongs(page)
    page.wait_for_selector(".vl-vote:not([inert])")
    page.locator("#vl-vote-left").click()
    said(page, "#vl-vote-message", "left; it is not stored")
    pick(page, "2026000002-captioning-0")
    page.wait_for_selector(".vl-vote:not([inert])")


@pytest.mark.browser
def test_arrow_keys_move_between_the_tabs(visit: Any) -> None:
    page = visit()
    tabs = page.locator(".vl-tabs [role=tab]")
    last = tabs.count() - 1
    page.get_by_role("tab", name="Compare").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("[role=tab][aria-selected=true]:has-text('Inspect'):focus")
    assert tabs.evaluate_all("(all) => all.filter((tab) => tab.tabIndex === 0).length") == 1
    for key, place in (("Home", 0), ("ArrowLeft", last), ("ArrowRight", 0), ("End", last)):
        page.keyboard.press(key)
        page.wait_for_function(
            "(n) => { const tab = document.querySelectorAll('.vl-tabs [role=tab]')[n];"
            " return tab === document.activeElement && tab.getAttribute('aria-selected') === 'true'; }",
            arg=place,
        )


@pytest.mark.browser
def test_numbers_that_are_left_to_the_model_say_so(visit: Any) -> None:
    page = visit()
    link = page.locator("#vl-link input, #vl-link textarea")
    before = link.input_value()
    open_settings(page, "left")
    assert link.input_value() == before, "nothing was chosen"
    for name, words in (("image_size", "as trained"), ("max_new_tokens", "the task's")):
        field = f'#vl-left-{name} input[placeholder="{words}"]'
        page.wait_for_function("(field) => document.querySelector(field)?.value === ''", arg=field)
    belongs(page)
    page.locator("#vl-left-max_new_tokens input").fill("7")
    page.locator("#vl-left-max_new_tokens input").blur()
    said(page, "#vl-left-settings", "7 tokens at most")
    page.locator("#vl-left-max_new_tokens input").fill("")
    page.locator("#vl-left-max_new_tokens input").blur()
    belongs(page)


@pytest.mark.browser
def test_the_overlap_of_a_box_is_not_cut_off_in_the_list(visit: Any) -> None:
    page = visit(width=768)
    page.locator(".vl-to-run").click()
    said(page, "#vi-headline", " on 72 Locate samples")
    page.wait_for_selector("#vi-table .vl-iou", state="attached")
    cut = "(cells) => cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1).length"
    for width in (768, 1280, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        settled(page)
        assert page.locator("#vi-table td.vi-said:has(.vl-iou)").evaluate_all(cut) == 0, width
