"""What the browser tests of the page share: a browser, visits to an address, and a visitor's small actions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WAIT = int(os.environ.get("VLCOMPARE_TEST_WAIT_MS", 120_000))  # a busy machine is slow to paint


@contextmanager
def launched(chromium: str) -> Iterator[Any]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@contextmanager
def visits(browser: Any, address: str, ready: Callable[[Any, str], None] | None = None) -> Iterator[Callable[..., Any]]:
    """Opens the page at `address` and waits until `ready(page, query)` (None: the Compare tab) finds it filled.

    Complains at the end about errors and dialogues of scripts.
    """
    errors: list[str] = []
    contexts = []

    def open_page(query: str = "?", width: int = 1440, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(f"a script ran: {dialog.message}"))
        page.goto(address + query, wait_until="domcontentloaded")
        (ready or comparing)(page, query)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors, errors


def comparing(page: Any, query: str) -> None:
    """Wait until the Compare tab has its example and its link."""
    page.wait_for_selector(".vl-example[aria-pressed='true']" if "text=" not in query else ".vl-example")
    page.wait_for_function("document.querySelector('#vl-link input, #vl-link textarea')?.value.startsWith('http')")


def compare(page: Any) -> None:
    """Press Compare, and wait until the page shows the new run."""
    runs = page.locator(".vl-history-item").count()
    page.locator("#vl-run").click()
    page.wait_for_function("(runs) => document.querySelectorAll('.vl-history-item').length > runs", arg=runs)
    done(page)


def done(page: Any) -> None:
    """Both sides have answered, and the run is in the history."""
    for side in ("left", "right"):
        page.wait_for_selector(f"#vl-{side}-card .vl-status:is(.vl-done, .vl-failed)")
    page.wait_for_selector(".vl-history-item[aria-pressed='true']")


def pick(page: Any, example: str) -> None:
    """Choose a shipped example by its id."""
    page.locator(f".vl-example[data-pick='{example}']").click()
    page.wait_for_selector(f".vl-example[data-pick='{example}'][aria-pressed='true']")


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.inner_text())


def choose_task(page: Any, title: str) -> None:
    page.locator("#vl-task input").click()
    page.get_by_role("option", name=title, exact=True).click()


def upload(page: Any, data: bytes, name: str = "mine.png") -> None:
    """Put a picture in place of the one that is there."""
    clear = page.locator("#vl-picture button[aria-label='Clear'], #vl-picture button[aria-label='Remove Image']")
    if clear.count():
        clear.first.click()
        page.wait_for_selector(".vl-example[aria-pressed='true']", state="detached")
    page.locator("#vl-picture input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": data}
    )
    page.wait_for_selector("#vl-picture img")
