"""What the browser tests of the page share: a browser, visits to an address, and a visitor's small actions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WAIT = int(os.environ.get("VLCOMPARE_TEST_WAIT_MS", 120_000))  # a busy machine is slow to paint

# before the page's own scripts: how many of its calls to the server have no reply yet, those of gradio's queue left out
COUNT_CALLS = """(() => {
  window.vlCalls = 0;
  const real = window.fetch;
  window.fetch = async (...given) => {
    const counted = /gradio_api\\/(run|upload)/.test(given[0]?.url ?? given[0]);
    if (!counted) return real(...given);
    window.vlCalls++;
    try {
      const reply = await real(...given);
      await reply.clone().arrayBuffer();
      return reply;
    } finally {
      window.vlCalls--;
    }
  };
})()"""

# before the page's own scripts: gradio counts the seconds of its loading sign at every frame, and goes on when the sign
# is gone; ten times a second leave more of the processor to what is tested
TENTHS = """(() => {
  const frame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (paint) =>
    /^\\(\\)=>.*performance\\.now\\(\\)/s.test(paint) ? setTimeout(() => frame(paint), 100) : frame(paint);
})()"""

OPENED: list[Any] = []  # pages that tests have open, for what is told of a failure

# of a page whose test fails: the run's state, its message, both cards, whether a press waits, calls without a reply
SAYS = """() => ['#vl-state', '#vl-message', '#vl-left-card', '#vl-right-card'].map((place) =>
  `${place}: ${document.querySelector(`${place} .prose`)?.innerHTML.slice(0, 400)}`).join('\\n')
  + `\\npending: ${document.querySelector('.vl-main')?.dataset.pending ?? 'no'}, calls: ${window.vlCalls}`"""


def pages_say() -> Iterator[str]:
    """What each open page says; its error where it does not answer."""
    for page in [page for page in OPENED if not page.is_closed()]:
        try:
            yield str(page.evaluate(SAYS))
        except Exception as error:
            yield repr(error)


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

    A page that an earlier test has left is taken over, unless it is to be `fresh`: nothing is cached, as when somebody
    comes for the first time; on a `touch` screen; or with a `script` of the test that runs before the page's own.
    Complains at the end about errors and dialogues of scripts.
    """
    errors: list[str] = []
    opened: list[Any] = []
    single: list[Any] = []  # contexts that no other test takes over
    hear = {
        "pageerror": lambda error: errors.append(str(error)),
        "dialog": lambda dialog: errors.append(f"a script ran: {dialog.message}"),
    }

    def open_page(
        query: str = "?",
        width: int = 1440,
        height: int = 900,
        scheme: str = "light",
        *,
        fresh: bool = False,
        touch: bool = False,
        script: str = "",
    ) -> Any:
        own = touch or bool(script)
        page = None if own or fresh else spare_page(browser)
        if page is None:
            page = new_page(browser, script, has_touch=touch)
            single.extend([page.context] if own else [])
        OPENED.append(page)
        opened.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        for event, heard in hear.items():
            page.on(event, heard)
        page.goto(address + query, wait_until="domcontentloaded")
        (ready or comparing)(page, query)
        replied(page)
        return page

    yield open_page
    OPENED[:] = [page for page in OPENED if page not in opened]
    for page in opened:
        for event, heard in hear.items():
            page.remove_listener(event, heard)
    for context in single:
        context.close()
    assert not errors, errors


def new_page(browser: Any, script: str = "", **options: Any) -> Any:
    """A page in a context of its own, which has these options; script: runs before the page's own."""
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT)
    context.add_init_script(";\n".join((COUNT_CALLS, TENTHS, script)))
    page = context.new_page()
    slower = float(os.environ.get("VLCOMPARE_TEST_SLOWER", 1))
    if slower > 1:
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slower})
    return page


def spare_page(browser: Any) -> Any:
    """A page that an earlier test has left, with nothing stored, or None: an address opens in it in half the time."""
    spare = [page for context in browser.contexts for page in context.pages[:1] if page not in OPENED]
    if not spare:
        return None
    page = spare[0]
    page.evaluate("localStorage.clear(); sessionStorage.clear()")
    page.context.clear_cookies()
    page.context.clear_permissions()
    page.unroute_all(behavior="ignoreErrors")
    page.mouse.move(0, 0)
    return page


# true once no call was without its reply for some frames: what follows from a reply may be another call
REPLIED = """() => {
  const quiet = window.vlQuiet ??= {frames: 0};
  quiet.frames = window.vlCalls ? 0 : quiet.frames + 1;
  return quiet.frames >= 5;
}"""


def replied(page: Any) -> None:
    """Wait until the server has replied to all that the page has asked, but for what goes through gradio's queue.

    For what has no other sign in the page: a reply that is still under way would overwrite what is done next.
    """
    page.evaluate("delete window.vlQuiet")
    page.wait_for_function(REPLIED)


def comparing(page: Any, query: str) -> None:
    """Wait until the Compare tab shows what its own session holds: its example, with its picture, and its link."""
    page.wait_for_selector("#vl-state i:not([data-built])", state="attached")
    if "text=" in query:
        page.wait_for_selector(".vl-example")
    else:
        page.wait_for_selector(".vl-example[aria-pressed='true']")
        page.wait_for_selector("#vl-picture img")
    page.wait_for_function("document.querySelector('#vl-link input, #vl-link textarea')?.value.startsWith('http')")


def said(page: Any, selector: str, pattern: str) -> None:
    """Wait until the element's text matches, be the element visible or not."""
    page.wait_for_function(
        "([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector)?.innerText ?? '')",
        arg=[selector, pattern],
    )


def compare(page: Any, button: str = "#vl-run") -> None:
    """Press Compare (or another button that runs the models), and wait until the page shows the new run."""
    runs = page.locator(".vl-history-item").count()
    page.locator(button).click()
    page.wait_for_function("(runs) => document.querySelectorAll('.vl-history-item').length > runs", arg=runs)
    done(page)


def done(page: Any) -> None:
    """Both sides have answered, the run is in the history, and the page takes the next press of a button."""
    for side in ("left", "right"):
        page.wait_for_selector(f"#vl-{side}-card .vl-status:is(.vl-done, .vl-failed)")
    page.wait_for_selector(".vl-history-item[aria-pressed='true']")
    idle(page)


def idle(page: Any) -> None:
    """Nothing is running or pending."""
    page.wait_for_selector(".vl-main:not([data-pending]) #vl-state i:not([data-running])", state="attached")


def stop(page: Any) -> None:
    """Press Stop, and wait until the page has stopped and says so."""
    page.locator("#vl-stop").click()
    for side in ("left", "right"):
        page.wait_for_selector(f"#vl-{side}-card .vl-done")
    idle(page)


# true once nothing has moved in four looks: pictures and fonts are there, and no transition is under way
STILL = """() => {
  const nodes = [...document.querySelectorAll('body *')].filter((node) => node.checkVisibility());
  const place = nodes.map((node) => {
    const r = node.getBoundingClientRect();
    return [r.left, r.top, r.width, r.height].map((v) => v.toFixed(1)).join();
  }).join(';');
  const moving = document.getAnimations().some((one) =>
    one.playState === 'running' && one.effect.getComputedTiming().endTime !== Infinity);
  const loaded = document.fonts.status === 'loaded' &&
    nodes.every((node) => node.tagName !== 'IMG' || node.loading === 'lazy' || node.complete);
  const still = window.vlStill ??= {place: '', looks: 0};
  still.looks = place === still.place && loaded && !moving ? still.looks + 1 : 0;
  still.place = place;
  return still.looks >= 3;
}"""


def settled(page: Any) -> None:
    """Wait until everything has found its place: to be called before places, widths or colours are measured."""
    page.evaluate("delete window.vlStill")
    page.wait_for_function(STILL, polling=50)  # ms; each look reads the place of everything


def pick(page: Any, example: str) -> None:
    """Choose a shipped example by its id."""
    page.locator(f".vl-example[data-pick='{example}']").click()
    replied(page)
    page.wait_for_selector(f".vl-example[data-pick='{example}'][aria-pressed='true']")


def belongs(page: Any) -> None:
    """Wait until the answers belong to the settings."""
    page.wait_for_selector("#vl-belongs .vl-from", state="detached")


def differs(page: Any, pattern: str = "") -> None:
    """Wait until the answers are said to be from other settings, with these words."""
    page.wait_for_selector("#vl-belongs .vl-from")
    said(page, "#vl-belongs", pattern)


def open_settings(page: Any, side: str) -> None:
    """Open a side's settings, and wait until their lists are filled."""
    if not page.locator(f"#vl-{side}-checkpoint").is_visible():
        page.locator(f"#vl-{side}-settings > button").click()
        page.locator(f"#vl-{side}-checkpoint").wait_for(state="visible")
        replied(page)


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.inner_text())


def choose(page: Any, field: str, name: str) -> None:
    """Choose from a field's own list: another one may still be fading out. Leaves with the list gone."""
    page.locator(f"{field} input").click()
    page.locator(field).get_by_role("option", name=name, exact=True).click()
    page.locator(field).get_by_role("listbox").wait_for(state="detached")
    replied(page)


def choose_task(page: Any, title: str) -> None:
    choose(page, "#vl-task", title)


def upload(page: Any, data: bytes, name: str = "mine.png") -> None:
    """Put a picture in place of the one that is there."""
    clear = page.locator("#vl-picture button[aria-label='Clear'], #vl-picture button[aria-label='Remove Image']")
    if clear.count():
        clear.first.click()
        page.wait_for_selector("#vl-picture img", state="detached")
        page.wait_for_selector(".vl-example[aria-pressed='true']", state="detached")
        replied(page)
    page.locator("#vl-picture input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": data}
    )
    page.wait_for_selector("#vl-picture img")
    replied(page)
